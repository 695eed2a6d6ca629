"""What `convert` reads; a new source is a function that returns a `Listing`."""
