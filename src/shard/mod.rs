//! Shards: the cutting of a payload into stripes and lanes, and the erasure coding that protects it against the loss of holders.

mod assembler;
mod coder;
mod descriptor;
mod lanes;
mod part;

pub use assembler::{AssembleError, Assembler};
pub use coder::{Coded, CoderError, StripeDecoder, encode};
pub use descriptor::{Coding, Descriptor, DescriptorError};
pub use lanes::Lanes;
pub use part::{Blob, Part, ShardIndex};
