//! The store in memory of one process: for tests and for trying things out.
