//! The process's one pool of worker threads.
