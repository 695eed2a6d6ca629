"""`fastdeit budget`: how long a recipe takes, on one device as measured and on many on paper."""
