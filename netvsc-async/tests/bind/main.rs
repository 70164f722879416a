//! Binding adapters, on a sysfs made of plain files and a kernel that a test emulates.

mod binding;
mod cli;
mod guard;
mod kernel;
mod refusals;
mod tree;
