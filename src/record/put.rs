//! PUT: a request to keep a payload. After OK its verified encoding follows on the stream.

use super::{Descriptor, Record, RecordError, RecordType, finish, take, take_u8, varint};

/// PUT: `queue(i) flags(8) lease_s(i) descriptor_len(i) descriptor`.
///
/// The flag that puts single lanes is refused as unsupported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put {
    /// The application queue that is told of it, at most 2^62 - 1.
    pub queue: u64,
    /// How long to keep it, seconds; 0: as long as the holder likes.
    pub lease_s: u64,
    /// What is put and how it is cut; uncoded for a plain payload.
    pub descriptor: Descriptor,
}

impl Put {
    /// Flag: only the lanes of a bitmap are put.
    pub const FLAG_LANES: u8 = 0x01;
}

impl Record for Put {
    const TYPE: RecordType = RecordType::Put;

    fn parse(mut body: &[u8]) -> Result<Self, RecordError> {
        let queue = varint::read(&mut body, "queue")?;
        match take_u8(&mut body, "flags")? {
            0 => {}
            Self::FLAG_LANES => return Err(RecordError::Unsupported("a PUT of single lanes is")),
            _ => return Err(RecordError::Unsupported("a PUT flag is")),
        }
        let lease_s = varint::read(&mut body, "lease_s")?;
        let descriptor_len = varint::read(&mut body, "descriptor_len")?;
        let descriptor_len = usize::try_from(descriptor_len).unwrap_or(usize::MAX);
        let descriptor = Descriptor::parse(take(&mut body, descriptor_len, "descriptor")?)?;
        finish(body)?;
        Ok(Self { queue, lease_s, descriptor })
    }

    fn emit(&self, out: &mut Vec<u8>) {
        varint::write(self.queue, out);
        out.push(0);
        varint::write(self.lease_s, out);
        varint::write(self.descriptor.encoded_len() as u64, out);
        self.descriptor.emit(out);
    }

    fn encoded_len(&self) -> usize {
        let descriptor_len = self.descriptor.encoded_len();
        varint::encoded_len(self.queue)
            + 1
            + varint::encoded_len(self.lease_s)
            + varint::encoded_len(descriptor_len as u64)
            + descriptor_len
    }
}
