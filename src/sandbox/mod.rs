//! One job, one child process.
