"""What becomes of rows: compared, kept, and made into a report and the README's table."""
