"""Reports of spend: a period, its rows by one or two dimensions, and their text as JSON or CSV."""
