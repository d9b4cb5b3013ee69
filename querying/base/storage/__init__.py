"""Where data sets lie: in a folder, or in a bucket of an object store; both are published whole and read by file."""
