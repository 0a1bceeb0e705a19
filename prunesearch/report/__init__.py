"""What a run leaves behind: the study folder, `front.json`, the table on screen and the HTML report."""
