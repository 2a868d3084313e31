//! The one table that is needed of ImageNet's `meta.mat`: which number stands for which synset.
//!
//! Not a reader of MATLAB's files: only variables of numbers and characters inside an array of structures are
//! understood, in files of version 5, little-endian, compressed or not.
//!
//! Source: MathWorks, "MAT-File Format", chapter 1, "Level 5 MAT-Files".

use std::io::Read;

use flate2::read::ZlibDecoder;

const HEADER_BYTES: usize = 128;
/// Of a variable after decompression; ImageNet's has 3 MB.
const MAX_VARIABLE_BYTES: u64 = 64 << 20;

/// Types of data elements.
const INT8: u32 = 1;
const UINT8: u32 = 2;
const INT16: u32 = 3;
const UINT16: u32 = 4;
const INT32: u32 = 5;
const UINT32: u32 = 6;
const DOUBLE: u32 = 9;
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;
const UTF8: u32 = 16;

/// The class of an array of structures.
const STRUCTURES: u8 = 2;

/// Reads the numbers and names of the variable `synsets`: its fields `ILSVRC2012_ID` and `WNID`.
///
/// # Errors
///
/// What is wrong, as the end of a sentence about the file.
pub(super) fn synsets(file: &[u8]) -> Result<Vec<(u32, String)>, String> {
    let refused = || "is no such MAT-file as ImageNet's meta.mat".to_owned();
    if file.get(126..HEADER_BYTES) != Some(b"IM") {
        return Err(refused());
    }
    let mut rest = &file[HEADER_BYTES..];
    while !rest.is_empty() {
        let (kind, data) = element(&mut rest).ok_or_else(refused)?;
        let mut inflated = Vec::new();
        let mut variable = match kind {
            COMPRESSED => {
                let decoder = ZlibDecoder::new(data).take(MAX_VARIABLE_BYTES);
                { decoder }.read_to_end(&mut inflated).map_err(|e| format!("is damaged: {e}"))?;
                let mut rest = &*inflated;
                match element(&mut rest).ok_or_else(refused)? {
                    (MATRIX, data) => data,
                    _ => continue,
                }
            }
            MATRIX => data,
            _ => continue,
        };
        if let Some(array) = Array::read(&mut variable).filter(|array| array.name == b"synsets") {
            return structures(array, variable).ok_or_else(refused);
        }
    }
    Err("has no variable synsets".into())
}

/// What every array begins with.
struct Array<'a> {
    class: u8,
    len: usize,
    name: &'a [u8],
}

impl<'a> Array<'a> {
    fn read(rest: &mut &'a [u8]) -> Option<Self> {
        let (_, flags) = element(rest)?;
        let (_, dimensions) = element(rest)?;
        let (_, name) = element(rest)?;
        let sides = dimensions.as_chunks().0.iter().map(|&side| u32::from_le_bytes(side) as usize);
        let len = { sides }.try_fold(1, |product: usize, side| product.checked_mul(side))?;
        Some(Self { class: *flags.first()?, len, name })
    }
}

/// The two fields of each structure.
fn structures(array: Array<'_>, mut rest: &[u8]) -> Option<Vec<(u32, String)>> {
    if array.class != STRUCTURES {
        return None;
    }
    let name_bytes = u32::from_le_bytes(*element(&mut rest)?.1.first_chunk()?) as usize;
    let names = element(&mut rest)?.1;
    let fields: Vec<&[u8]> = names.chunks_exact(Some(name_bytes).filter(|&bytes| bytes > 0)?).collect();
    let named = |name: &[u8]| {
        fields.iter().position(|field| field.strip_prefix(name).is_some_and(|rest| rest.first() == Some(&0)))
    };
    let (id, wnid) = (named(b"ILSVRC2012_ID")?, named(b"WNID")?);
    let mut found = Vec::new();
    // Ends with the data, whatever the length says.
    for _ in 0..array.len {
        let (mut number, mut name) = (None, None);
        for field in 0..fields.len() {
            let (_, mut value) = element(&mut rest)?;
            if field == id {
                number = scalar(&mut value);
            } else if field == wnid {
                name = characters(&mut value);
            }
        }
        found.push((number?, name?));
    }
    Some(found)
}

/// A matrix of one number.
fn scalar(matrix: &mut &[u8]) -> Option<u32> {
    Array::read(matrix)?;
    // Stored as the smallest type that holds it.
    match element(matrix)? {
        (INT8 | UINT8, &[a]) => Some(a.into()),
        (INT16 | UINT16, &[a, b]) => Some(u16::from_le_bytes([a, b]).into()),
        (INT32 | UINT32, &[a, b, c, d]) => Some(u32::from_le_bytes([a, b, c, d])),
        (DOUBLE, bytes) => Some(f64::from_le_bytes(bytes.try_into().ok()?) as u32),
        _ => None,
    }
}

/// A matrix of ASCII characters.
fn characters(matrix: &mut &[u8]) -> Option<String> {
    Array::read(matrix)?;
    match element(matrix)? {
        (INT8 | UINT8 | UTF8, bytes) => String::from_utf8(bytes.into()).ok(),
        (UINT16, bytes) => {
            let units: Vec<u16> = bytes.as_chunks().0.iter().map(|&unit| u16::from_le_bytes(unit)).collect();
            String::from_utf16(&units).ok()
        }
        _ => None,
    }
}

/// Takes the next data element: its type and its bytes.
fn element<'a>(rest: &mut &'a [u8]) -> Option<(u32, &'a [u8])> {
    let (tag, after) = rest.split_first_chunk()?;
    let tag = u32::from_le_bytes(*tag);
    // A small one has its length in the upper half of its type, and 4 bytes for its data.
    if tag >> 16 != 0 {
        let (data, after) = after.split_at_checked(4)?;
        *rest = after;
        return Some((tag & 0xFFFF, data.get(..(tag >> 16) as usize)?));
    }
    let (num_bytes, after) = after.split_first_chunk()?;
    let num_bytes = u32::from_le_bytes(*num_bytes) as usize;
    let (data, after) = after.split_at_checked(num_bytes)?;
    // All but compressed ones end on whole groups of 8 bytes.
    let padding = if tag == COMPRESSED { 0 } else { num_bytes.next_multiple_of(8) - num_bytes };
    *rest = after.get(padding..).unwrap_or(&[]);
    Some((tag, data))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> Vec<u8> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data/shards");
        std::fs::read(folder.join(name)).unwrap()
    }

    #[test]
    fn synsets_are_those_that_scipy_wrote() {
        let expected = [(2, "n02084071"), (1, "n02121808"), (300, "n01503061")];
        for name in ["meta.mat", "meta_plain.mat"] {
            let got = synsets(&fixture(name)).unwrap();
            assert_eq!(got, expected.map(|(id, wnid)| (id, wnid.to_owned())), "{name}");
        }
    }

    /// As MATLAB itself stores them; scipy writes UTF-8.
    #[test]
    fn characters_may_have_two_bytes() {
        let mut matrix: &[u8] = b"\x06\0\0\0\x08\0\0\0\x04\0\0\0\0\0\0\0\
            \x05\0\0\0\x08\0\0\0\x01\0\0\0\x02\0\0\0\x01\0\0\0\0\0\0\0\x04\0\x04\0n\x000\0";
        assert_eq!(characters(&mut matrix).unwrap(), "n0");
    }

    #[test]
    fn what_is_cut_off_or_changed_is_refused_or_read() {
        let file = fixture("meta_plain.mat");
        for length in 0..file.len() - 8 {
            assert!(synsets(&file[..length]).is_err(), "{length}");
        }
        for at in 0..file.len() {
            for value in [0, 0xFF, file[at] ^ 0x80] {
                let mut changed = file.clone();
                changed[at] = value;
                let _ = synsets(&changed);
            }
        }
        assert_eq!(synsets(&[0; 200]).unwrap_err(), "is no such MAT-file as ImageNet's meta.mat");
    }
}
