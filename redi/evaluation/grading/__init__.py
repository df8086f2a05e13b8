"""From a response to a verdict, in this order:

response -> answer           answer.py
one spelling of the LaTeX    normalize.py
structure                    structure.py, with quantities.py
comparison of structures     compare.py; paper_grader.py for the second verdict
symbolic algebra             symbolic.py, in the processes of workers.py
verdict                      verdict.py; grade_folder.py for a folder of responses
"""
