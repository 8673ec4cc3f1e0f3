"""Plain data to tables, figures and pages. Knows no torch."""
