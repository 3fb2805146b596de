"""Stage two: boosters that start from the calibrated opinion of stage one and learn what the
context adds.
"""
