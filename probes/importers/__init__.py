"""Foreign recordings: one file per format, each turning a file into validated `RoutingArrays`."""
