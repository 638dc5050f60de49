"""What a detector is worth: metrics and their intervals, thresholds, the comparison, the rule for
promotion.
"""
