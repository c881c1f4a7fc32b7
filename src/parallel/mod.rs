//! Who holds which part of the flat stages, and how the ranks' gradients become one.

pub mod gradients;

pub use gradients::Gradients;
