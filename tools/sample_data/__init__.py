"""`fastdeit sample-data`: a source that looks like ImageNet, made of photographs at hand."""
