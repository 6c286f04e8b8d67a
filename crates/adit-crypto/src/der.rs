//! As much of DER (X.690) as keys and signatures need: elements of one octet of tag, read one after the other. Owns no
//! meaning; what it does not take is refused.

/// A tag of one octet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag(u8);

impl Tag {
    pub(crate) const INTEGER: Self = Self(2);
    pub(crate) const BIT_STRING: Self = Self(3);
    #[cfg(any(test, feature = "legacy"))]
    pub(crate) const OCTET_STRING: Self = Self(4);
    pub(crate) const OID: Self = Self(6);
    pub(crate) const SEQUENCE: Self = Self(0x30);

    /// Constructed, context-specific.
    pub(crate) const fn context(number: u8) -> Self {
        Self(0xa0 | number)
    }
}

/// What is not read yet.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(octets: &'a [u8]) -> Self {
        Self(octets)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The content of the next element, if it has this tag.
    pub(crate) fn take(&mut self, tag: Tag) -> Option<&'a [u8]> {
        self.next(tag).map(|(content, _)| content)
    }

    /// The next element with its header, if it has this tag.
    pub(crate) fn take_whole(&mut self, tag: Tag) -> Option<&'a [u8]> {
        self.next(tag).map(|(_, whole)| whole)
    }

    /// The content of the only element.
    pub(crate) fn only(mut self, tag: Tag) -> Option<&'a [u8]> {
        let content = self.take(tag)?;
        self.is_empty().then_some(content)
    }

    fn next(&mut self, tag: Tag) -> Option<(&'a [u8], &'a [u8])> {
        // The shortest form of a length is the only one, and two octets are enough.
        let (header, length) = match *self.0 {
            [first, length @ ..=0x7f, ..] if first == tag.0 => (2, usize::from(length)),
            [first, 0x81, length @ 0x80..=0xff, ..] if first == tag.0 => (3, usize::from(length)),
            [first, 0x82, high @ 1..=0xff, low, ..] if first == tag.0 => {
                (4, usize::from(u16::from_be_bytes([high, low])))
            }
            _ => return None,
        };
        let (whole, rest) = self.0.split_at_checked(header + length)?;
        self.0 = rest;
        Some((whole.get(header..)?, whole))
    }
}

/// An element of this tag whose content is the concatenation of `parts`: at most 65,535 octets.
pub(crate) fn encoded(tag: Tag, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = match u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes() {
        [0, short @ ..=0x7f] => vec![short],
        [0, long] => vec![0x81, long],
        [high, low] => vec![0x82, high, low],
    };
    [&[tag.0], &length[..], &content].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_shortest_form_of_a_length_and_nothing_else() {
        let read = |octets: &[u8]| Reader::new(octets).only(Tag::INTEGER).map(<[u8]>::len);
        let of = |header: &[u8], n: usize| [header, &vec![7; n]].concat();
        for (octets, expected) in [
            (of(&[2, 0], 0), Some(0)),
            (of(&[2, 0x7f], 127), Some(127)),
            (of(&[2, 0x81, 0x80], 128), Some(128)),
            (of(&[2, 0x82, 1, 0], 256), Some(256)),
            (of(&[3, 1], 1), None),
            (of(&[2, 0x80], 0), None),
            (of(&[2, 0x81, 1], 1), None),
            (of(&[2, 0x82, 0, 0x80], 128), None),
            (of(&[2, 0x83, 0, 0, 1], 1), None),
            (of(&[2, 2], 1), None),
            (of(&[2, 1], 2), None),
            (of(&[2], 0), None),
            (of(&[], 0), None),
        ] {
            assert_eq!(read(&octets), expected, "{octets:?}");
        }
    }

    #[test]
    fn what_is_encoded_is_read() {
        for n in [0, 1, 127, 128, 255, 256, 65_535] {
            let content = vec![7; n];
            let octets = encoded(Tag::SEQUENCE, &[&content]);
            assert_eq!(Reader::new(&octets).only(Tag::SEQUENCE), Some(&content[..]));
        }
    }
}
