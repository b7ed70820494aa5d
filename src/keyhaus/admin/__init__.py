"""HTTP, the metrics page and the web page. Empty until they come."""
