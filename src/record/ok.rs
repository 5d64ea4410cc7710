//! OK: the request is accepted; for FETCH the verified encoding follows.

use super::{Descriptor, Record, RecordError, RecordType, finish, take, varint};

/// OK: `length(i) descriptor_len(i) [descriptor]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OkRecord {
    /// The whole payload's length, bytes; for PUT, the length to keep.
    pub length_bytes: u64,
    /// How the payload is cut, where the answer carries it.
    pub descriptor: Option<Descriptor>,
}

impl Record for OkRecord {
    const TYPE: RecordType = RecordType::Ok;

    fn parse(mut body: &[u8]) -> Result<Self, RecordError> {
        let length_bytes = varint::read(&mut body, "length")?;
        let descriptor_len = varint::read(&mut body, "descriptor_len")?;
        let descriptor = match usize::try_from(descriptor_len).unwrap_or(usize::MAX) {
            0 => None,
            len => Some(Descriptor::parse(take(&mut body, len, "descriptor")?)?),
        };
        finish(body)?;
        Ok(Self { length_bytes, descriptor })
    }

    fn emit(&self, out: &mut Vec<u8>) {
        varint::write(self.length_bytes, out);
        varint::write(self.descriptor.map_or(0, |d| d.encoded_len() as u64), out);
        if let Some(descriptor) = &self.descriptor {
            descriptor.emit(out);
        }
    }

    fn encoded_len(&self) -> usize {
        let descriptor_len = self.descriptor.map_or(0, |d| d.encoded_len());
        varint::encoded_len(self.length_bytes) + varint::encoded_len(descriptor_len as u64) + descriptor_len
    }
}
