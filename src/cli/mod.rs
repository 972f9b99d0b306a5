//! The command line: what can be typed ([`args`]), and what it means ([`run`]).

pub mod args;
mod dash;
mod generate;
mod job_args;
pub mod monitor_args;
pub mod process_args;
mod queue_args;
pub mod run;
pub mod schema;
mod work;
