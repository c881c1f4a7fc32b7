//! The formats of weight files: where each tensor's elements are in a file, read without executing anything.
//!
//! [`torch`] reads what `torch.save` writes, a [`zip`] archive with a [`pickle`], and [`bundle`] TensorFlow's
//! checkpoints, whose index is a [`table`]. [`bytes`] is an open file, [`stored`] the place of a tensor in it.

pub mod bundle;
pub mod bytes;
pub mod pickle;
pub mod stored;
pub mod table;
pub mod torch;
pub mod zip;
