//! A descriptor. Held: one that is read is written as the same bytes, for its hash is a set token.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoq::record::Descriptor;

fuzz_target!(|input: &[u8]| {
    let Ok(descriptor) = Descriptor::parse(input) else { return };
    let mut written = Vec::new();
    descriptor.emit(&mut written);
    assert_eq!(written, input);
    assert_eq!(written.len(), descriptor.encoded_len());
    let again = Descriptor::new(
        descriptor.content(),
        descriptor.length_bytes(),
        descriptor.shard_bytes(),
        descriptor.coding(),
    );
    assert_eq!(again, Ok(descriptor));
});
