"""From a response to a verdict, in this order:

response -> answer           answer.py
text                         normalize.py
exact numbers                exact_numbers.py
numeric probe                numeric_probe.py
comparison of all of these   compare.py; paper_grader.py for the second verdict
symbolic algebra             symbolic_worker.py, one process each, kept by worker_pool.py
verdict                      verdict.py; grade_folder.py for a folder of responses
"""
