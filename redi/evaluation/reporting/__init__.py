"""From graded answers to the report, in this order:

graded folders -> arrays   scores.py
arrays -> numbers          statistics.py
numbers -> tables          tables.py
numbers -> figures         figures.py
all of it in a folder      report.py; html_report.py for the page
the paper's numbers        reproduce.py, training_dynamics.py
"""
