//! `meshctl`: what it takes, and how it tells what it found.

mod args;
mod drain;
mod grammar;
mod health;
mod keys;
mod render;
mod run;
mod screen;
mod units;

pub use grammar::Cli;
pub use run::main;
