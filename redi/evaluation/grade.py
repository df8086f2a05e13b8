"""The grader's public entry point: `grade_response`."""

from redi.evaluation.grading.verdict import Grade, grade_response

__all__ = ["Grade", "grade_response"]
