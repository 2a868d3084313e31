//! Parts of JPEGs by libjpeg-turbo, through its C interface: the crate's only `unsafe` code.
//!
//! Not here: which part, and whether a file is one of those that are decoded so (`jpeg`). Source: turbojpeg.h of
//! libjpeg-turbo 3.1.

use std::{
    ffi::{CStr, c_int, c_void},
    ptr::NonNull,
};

use turbojpeg_sys as sys;

use super::{crop::CropBox, picture::Channels};

/// A decompressor of the library.
#[derive(Debug)]
struct Handle(NonNull<c_void>);

impl Handle {
    fn new() -> Option<Self> {
        // SAFETY: no condition but a value of the enumeration; a null pointer means no memory.
        #[expect(unsafe_code, reason = "a C library")]
        let handle = unsafe { sys::tj3Init(sys::TJINIT_TJINIT_DECOMPRESS as c_int) };
        NonNull::new(handle.cast()).map(Self)
    }

    fn as_ptr(&self) -> sys::tjhandle {
        self.0.as_ptr().cast()
    }

    fn set(&self, parameter: sys::TJPARAM, value: c_int) -> bool {
        // SAFETY: the handle is alive.
        #[expect(unsafe_code, reason = "a C library")]
        let status = unsafe { sys::tj3Set(self.as_ptr(), parameter as c_int, value) };
        status == 0
    }

    fn get(&self, parameter: sys::TJPARAM) -> c_int {
        // SAFETY: the handle is alive.
        #[expect(unsafe_code, reason = "a C library")]
        unsafe {
            sys::tj3Get(self.as_ptr(), parameter as c_int)
        }
    }

    /// What the library said last, on one line.
    fn message(&self) -> String {
        // SAFETY: the handle is alive, and the string is the handle's own: it is copied before the handle is used again.
        #[expect(unsafe_code, reason = "a C library")]
        let message = unsafe { CStr::from_ptr(sys::tj3GetErrorStr(self.as_ptr())) };
        super::decode::one_line(message.to_string_lossy())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle is alive, and nobody has it after this.
        #[expect(unsafe_code, reason = "a C library")]
        unsafe {
            sys::tj3Destroy(self.as_ptr());
        }
    }
}

/// Decodes parts of JPEGs; made when first used.
#[derive(Debug, Default)]
pub(super) struct Decoder(Option<Handle>);

impl Decoder {
    /// Writes `part` of a JPEG to `pixels`, the library's every warning being an error. It stops at the part's last row.
    ///
    /// `part.left` is a multiple of the blocks coded together.
    pub(super) fn decode(
        &mut self,
        file: &[u8],
        part: CropBox,
        channels: Channels,
        pixels: &mut [u8],
    ) -> Result<(), String> {
        let handle = match self.0.take().or_else(Handle::new) {
            Some(handle) => self.0.insert(handle),
            None => return Err("libjpeg-turbo has no memory".into()),
        };
        if !handle.set(sys::TJPARAM_TJPARAM_STOPONWARNING, 1) {
            return Err(handle.message());
        }
        // SAFETY: the handle is alive; the pointer is good for as many bytes.
        #[expect(unsafe_code, reason = "a C library")]
        let status = unsafe { sys::tj3DecompressHeader(handle.as_ptr(), file.as_ptr(), file.len() as _) };
        if status != 0 {
            return Err(handle.message());
        }
        let (space, format) = match channels {
            Channels::Grey => (sys::TJCS_TJCS_GRAY, sys::TJPF_TJPF_GRAY),
            Channels::Rgb => (sys::TJCS_TJCS_YCbCr, sys::TJPF_TJPF_RGB),
        };
        if handle.get(sys::TJPARAM_TJPARAM_COLORSPACE) != space as c_int
            || handle.get(sys::TJPARAM_TJPARAM_PRECISION) != 8
        {
            return Err("libjpeg-turbo reads its header differently".into());
        }
        let CropBox { left, top, width, height } = part;
        let row_bytes = width * channels.count();
        if pixels.len() != row_bytes * height {
            return Err("there is not as much room as the part needs".into());
        }
        // Sides of a JPEG have 16 bits.
        let [x, y, w, h] = [left, top, width, height].map(|side| side as c_int);
        let region = sys::tjregion { x, y, w, h };
        // SAFETY: the handle is alive. The library refuses a region that is not within the picture.
        #[expect(unsafe_code, reason = "a C library")]
        let status = unsafe { sys::tj3SetCroppingRegion(handle.as_ptr(), region) };
        if status != 0 {
            return Err(handle.message());
        }
        // SAFETY: the handle is alive; the first pointer is good for as many bytes. The library writes `height` rows of
        // `width` pixels, `row_bytes` apart: those of the region, which it has accepted for the size in this very header.
        // `pixels` has been found to have just that length. The format is one of 8 bits and as many channels.
        #[expect(unsafe_code, reason = "a C library")]
        let status = unsafe {
            sys::tj3Decompress8(
                handle.as_ptr(),
                file.as_ptr(),
                file.len() as _,
                pixels.as_mut_ptr(),
                row_bytes as c_int,
                format as c_int,
            )
        };
        if status == 0 { Ok(()) } else { Err(handle.message()) }
    }
}
