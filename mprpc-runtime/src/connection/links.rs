//! Messages whose large fields of type `Bytes` are not copied on their way out: they are linked in between
//! the bytes that were encoded.

use std::{
    io::{self, Write},
    sync::Arc,
};

use bytes::Bytes;
use protobuf::{
    CodedOutputStream, MessageDyn,
    reflect::{FieldDescriptor, ReflectValueBox, ReflectValueRef},
};

use crate::wire::mux;

/// What belongs between other bytes, and where.
pub(crate) type Links = Vec<(usize, Bytes)>;

/// A field, as long as somebody needs its bytes.
struct Field {
    message: Arc<dyn MessageDyn>,
    field: FieldDescriptor,
}

/// The large `Bytes` fields of a message of `size` bytes, at least `LARGE`, where they lie, if it consists
/// of little else. Those of messages in it are not looked for.
pub(crate) fn large_fields(message: &dyn MessageDyn, size: usize) -> Option<Vec<Bytes>> {
    let len = |field: &FieldDescriptor| bytes_of(field, message).len();
    let large = |field: &FieldDescriptor| len(field) >= LARGE && is_shared(field, message);
    let fields: Vec<_> = message.descriptor_dyn().fields().filter(large).collect();
    if size.saturating_sub(fields.iter().map(len).sum()) > LITTLE {
        return None;
    }
    // A clone has these fields in common with the message, which is only lent. What is cloned beside them may be
    // many times as large as when it is encoded, and is counted nowhere: so it has to be little.
    let message: Arc<dyn MessageDyn> = message.clone_box().into();
    let own = |field| Bytes::from_owner(Field { message: message.clone(), field });
    Some(fields.into_iter().map(own).collect())
}

/// Appends `message` to `out` without those of `fields` that are its own, and gives their places.
/// `compute_size_dyn` must have been called on it just before.
pub(crate) fn append(
    message: &dyn MessageDyn,
    out: &mut Vec<u8>,
    fields: &[Bytes],
) -> Result<Links, protobuf::Error> {
    let mut writer = Linker { out, fields, links: Links::new() };
    let mut stream = CodedOutputStream::new(&mut writer);
    message.write_to_with_cached_sizes_dyn(&mut stream)?;
    stream.flush()?;
    drop(stream);
    Ok(writer.links)
}

/// How many bytes are linked.
pub(crate) fn total(links: &[(usize, Bytes)]) -> usize {
    links.iter().map(|(_, link)| link.len()).sum()
}

/// The pieces of a finished mux frame whose message lacks `links`.
pub(crate) fn finish(mut frame: Vec<u8>, links: &[(usize, Bytes)]) -> Vec<Bytes> {
    mux::finish_linked(&mut frame, total(links));
    join(frame.into(), links)
}

/// `bytes` with `links` in their places, piece by piece. Some may be empty.
pub(crate) fn join(mut bytes: Bytes, links: &[(usize, Bytes)]) -> Vec<Bytes> {
    let (mut pieces, mut at) = (Vec::with_capacity(2 * links.len() + 1), 0);
    for (place, link) in links {
        pieces.extend([bytes.split_to(place - at), link.clone()]);
        at = *place;
    }
    pieces.push(bytes);
    pieces
}

/// Takes what a stream passes on. That is a field that is larger than its buffer in one piece.
struct Linker<'a> {
    out: &'a mut Vec<u8>,
    fields: &'a [Bytes],
    links: Links,
}

impl Write for Linker<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.fields.iter().find(|field| is_same(field, bytes)) {
            Some(field) => self.links.push((self.out.len(), field.clone())),
            None => self.out.extend_from_slice(bytes),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsRef<[u8]> for Field {
    fn as_ref(&self) -> &[u8] {
        bytes_of(&self.field, &*self.message)
    }
}

/// Empty if it is no single `bytes` field.
fn bytes_of<'a>(field: &FieldDescriptor, message: &'a dyn MessageDyn) -> &'a [u8] {
    match field.is_singular().then(|| field.get_singular(message)).flatten() {
        Some(ReflectValueRef::Bytes(bytes)) => bytes,
        _ => &[],
    }
}

/// Whether clones have a field in common: as `Bytes` they do, as `Vec<u8>` not. Nothing else tells.
fn is_shared(field: &FieldDescriptor, message: &dyn MessageDyn) -> bool {
    let mut one = message.descriptor_dyn().new_instance();
    field.set_singular_field(&mut *one, ReflectValueBox::Bytes(vec![1]));
    is_same(bytes_of(field, &*one), bytes_of(field, &*one.clone_box()))
}

/// Whether these are the same bytes, not equal ones.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    (one.as_ptr(), one.len()) == (other.as_ptr(), other.len())
}

/// Smaller fields are copied faster.
pub(crate) const LARGE: usize = 64 << 10;
/// As many bytes may be encoded beside them.
const LITTLE: usize = 4 << 10;

#[cfg(test)]
mod tests {
    use protobuf::well_known_types::wrappers::BytesValue;

    use super::*;

    #[test]
    fn links_come_into_their_places() {
        let links = [(0, "a"), (2, "b"), (2, "c"), (4, "d")].map(|(at, link)| (at, Bytes::from(link)));
        assert_eq!(join(Bytes::from("1234"), &links).concat(), b"a12bc34d");
        assert_eq!((total(&links), join(Bytes::from("1234"), &[]).concat()), (4, b"1234".to_vec()));
    }

    #[test]
    fn a_field_that_clones_copy_is_none_to_link() {
        let message = BytesValue { value: vec![7; 1 << 20], ..Default::default() };
        assert!(large_fields(&message, 1 << 20).is_none());
    }

    #[test]
    fn of_equal_fields_only_the_messages_own_is_linked() {
        let message = BytesValue { value: vec![7; 100_000], ..Default::default() };
        let (mut out, size) = (Vec::new(), message.compute_size_dyn() as usize);
        let equal = Bytes::from(message.value.clone());
        assert!(append(&message, &mut out, &[equal]).unwrap().is_empty());
        assert_eq!(out.len(), size);
    }
}
