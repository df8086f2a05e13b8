"""From graded answers to statistics, tables, figures and the report page."""
