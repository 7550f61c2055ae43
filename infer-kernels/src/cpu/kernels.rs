//! Every kernel as an item of its own.
