//! Hardware addresses as text: `aa:bb:cc:dd:ee:ff`, or with dashes. Must not: know whose
//! they are.

/// Bytes of an address.
const LEN: usize = 6;

/// A whole address.
pub(super) fn address(text: &str) -> Option<[u8; LEN]> {
    let (address, len) = read(text)?;
    (len == LEN).then_some(address)
}

/// The first bytes of an address, or all of them.
pub(super) fn start(text: &str) -> Option<Vec<u8>> {
    let (address, len) = read(text)?;
    Some(address.get(..len)?.to_vec())
}

/// The bytes, and how many there are.
fn read(text: &str) -> Option<([u8; LEN], usize)> {
    let (mut address, mut len) = ([0; LEN], 0);
    for part in text.split([':', '-']) {
        // No sign, which `from_str_radix` would take.
        let is_byte = part.len() == 2 && part.bytes().all(|it| it.is_ascii_hexdigit());
        let byte = u8::from_str_radix(part, 16).ok().filter(|_| is_byte)?;
        *address.get_mut(len)? = byte;
        len += 1;
    }
    Some((address, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_two_digits_a_byte_and_no_sign() {
        let whole = [0x52, 0x54, 0, 0x12, 0x34, 0xaf];
        assert_eq!(address("52:54:00:12:34:af"), Some(whole));
        assert_eq!(address("52-54-00-12-34-AF"), Some(whole));
        assert_eq!(start("52:54"), Some(vec![0x52, 0x54]));
        assert_eq!(start("52:54:00:12:34:af"), Some(whole.to_vec()));
        for text in [
            "",
            "52:54:00:12:34:+5",
            "52:54:00:12:34:5",
            "52:54:00:12:34:005",
            "52:54:00:12:34:",
            "52:54:00:12:34:af:00",
            "52:54:00:12:34:g0",
            "525400123456",
        ] {
            assert_eq!(address(text), None, "{text}");
            assert_eq!(start(text), None, "{text}");
        }
        assert_eq!(address("52:54:00:12:34"), None);
    }
}
