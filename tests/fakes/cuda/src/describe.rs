//! Queries of the driver version and of GPU properties.

use crate::driver::{Code, driver, fill, result};
use std::ffi::{c_char, c_int};

/// Memory of each GPU.
const MEMORY: usize = 80 << 30;

/// # Safety
/// `version` is null or points to an int.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> c_int {
    // SAFETY: the caller's word.
    result(unsafe { fill(version, 13000) })
}

/// # Safety
/// `name` is null or has room for `length` characters.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, device: c_int) -> c_int {
    let known = driver().and_then(|driver| driver.device(device));
    // SAFETY: the caller's word.
    result(known.and_then(|_| unsafe { write(name, length, "Fake GPU") }))
}

/// # Safety
/// `bytes` is null or points to a size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int) -> c_int {
    // SAFETY: the caller's word.
    result(driver().and_then(|driver| driver.device(device)).and_then(|_| unsafe { fill(bytes, MEMORY) }))
}

/// # Safety
/// `bus_id` is null or has room for `length` characters.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetPCIBusId(bus_id: *mut c_char, length: c_int, device: c_int) -> c_int {
    let known = driver().and_then(|driver| driver.device(device));
    // SAFETY: the caller's word.
    result(known.and_then(|device| unsafe { write(bus_id, length, &format!("0000:{:02X}:00.0", device + 1)) }))
}

/// Writes a NUL-terminated string.
///
/// # Safety
/// `place` is null or has room for `length` characters.
unsafe fn write(place: *mut c_char, length: c_int, text: &str) -> Result<(), Code> {
    if place.is_null() || usize::try_from(length).map_or(true, |length| length <= text.len()) {
        return Err(Code::InvalidValue);
    }
    for (at, byte) in text.bytes().chain([0]).enumerate() {
        // SAFETY: `at` is below `length`, by the test above.
        unsafe { place.add(at).write(byte as c_char) };
    }
    Ok(())
}
