"""Plans under one budget and one further limit: two prices, then a search as with one."""
