//! Virtual functions as the kernel has them: network interfaces.
//!
//! An SR-IOV virtual function stays with its kernel driver (mlx4, mlx5, MANA), so that nothing of a vendor's is needed in user
//! space. [`find`] says which interface is the one that a host associated with an adapter; when it is used, and how its path
//! and the synthetic one are made one, is [`netvsc::vf`]'s to say.

mod discovery;

pub use discovery::{DiscoveryError, Interface, Match, find, interfaces};
