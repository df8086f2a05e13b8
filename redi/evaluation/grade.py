"""`grade_response`, the grader's public entry point."""

from redi.evaluation.grading.grade import Grade, grade_response

__all__ = ["Grade", "grade_response"]
