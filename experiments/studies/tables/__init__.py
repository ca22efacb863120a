"""The paper's tables on public data: gates on validation first, then the rivals, then the table."""
