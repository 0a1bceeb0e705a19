"""What there is to see of a study, once: the dashboard serves it live, `report.html` freezes it."""
