//! The CUDA kernels on a CPU: `src/ops/cuda/kernels.h` with an implementation of launches that runs the kernels' source
//! as C++ (`emulate.h`), and NVRTC's part (`src/ops/cuda/compiler.h`). Only tests use this package.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::{Mutex, PoisonError};
use tch::Tensor;

type Text = *mut c_char;

unsafe extern "C" {
    fn kernels_call(
        name: *const c_char,
        out: *mut *mut c_void,
        tensors: *const *mut c_void,
        numbers: *const f64,
        key: i64,
    ) -> Text;
    fn kernels_compile(
        text: *mut Text,
        folders: *const c_char,
        element: c_int,
        architecture: *const c_char,
        cache: *const c_char,
    ) -> Text;
    fn kernels_compile_source(folders: *const c_char, source: *const c_char) -> Text;
    fn kernels_cache_name(
        text: *mut Text,
        source: *const c_char,
        element: c_int,
        architecture: *const c_char,
        version: *const c_char,
    ) -> Text;
    fn kernels_cache_folder(text: *mut Text) -> Text;
    fn kernels_cached(text: *mut Text, folder: *const c_char, name: *const c_char, result: *const c_char) -> Text;
}

/// Takes ownership of a string by strdup.
fn take(text: Text) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not null, so made by strdup, and nobody else has it.
    unsafe {
        let taken = CStr::from_ptr(text).to_string_lossy().into_owned();
        libc::free(text.cast());
        Some(taken)
    }
}

fn c_string(text: &str) -> CString {
    CString::new(text).expect("no zero byte")
}

/// Calls a function that fills a string and returns an error.
fn text_of(call: impl FnOnce(*mut Text) -> Text) -> Result<String, String> {
    let mut text = null_mut();
    match take(call(&mut text)) {
        Some(error) => Err(error),
        None => Ok(take(text).unwrap_or_default()),
    }
}

/// Calls a function of `kernels.h` (`functions.cpp` has the names). The results are `None` where undefined.
pub fn call(name: &str, tensors: &[Option<&Tensor>], numbers: &[f64], key: i64) -> Result<[Option<Tensor>; 4], String> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(()); // the emulator has one set of fibers
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // Arguments that a function reads beyond those given are null and 0.
    let mut pointers = [null_mut(); 8];
    let mut values = [0.0; 8];
    for (pointer, tensor) in pointers.iter_mut().zip(tensors) {
        *pointer = tensor.map_or(null_mut(), |tensor| tensor.as_ptr().cast_mut().cast());
    }
    values[..numbers.len()].copy_from_slice(numbers);
    let mut out = [null_mut(); 4];
    let name = c_string(name);
    // SAFETY: the arrays are longer than what any function reads or writes, and tensors live for the call.
    let error = unsafe { kernels_call(name.as_ptr(), out.as_mut_ptr(), pointers.as_ptr(), values.as_ptr(), key) };
    match take(error) {
        Some(error) => Err(error),
        // SAFETY: each is null or a new tensor, which we own.
        None => Ok(out.map(|each| (!each.is_null()).then(|| unsafe { Tensor::from_ptr(each.cast()) }))),
    }
}

/// Compiles all kernels for an element type and an architecture with the NVRTC in one of the folders, separated by
/// colons. Returns the NVRTC, and the kernels that the result lacks.
pub fn compile(folders: &str, element: i32, architecture: &str, cache: &str) -> Result<String, String> {
    let (folders, architecture, cache) = (c_string(folders), c_string(architecture), c_string(cache));
    // SAFETY: C strings that live for the call.
    text_of(|text| unsafe { kernels_compile(text, folders.as_ptr(), element, architecture.as_ptr(), cache.as_ptr()) })
}

/// Compiles some other source; the error has the compiler's log.
pub fn compile_source(folder: &str, source: &str) -> Result<(), String> {
    let (folder, source) = (c_string(folder), c_string(source));
    // SAFETY: C strings that live for the call.
    take(unsafe { kernels_compile_source(folder.as_ptr(), source.as_ptr()) }).map_or(Ok(()), Err)
}

/// Returns the name of the cache file of a result.
pub fn cache_name(source: &str, element: i32, architecture: &str, version: &str) -> String {
    let (source, architecture, version) = (c_string(source), c_string(architecture), c_string(version));
    // SAFETY: C strings that live for the call.
    text_of(|text| unsafe {
        kernels_cache_name(text, source.as_ptr(), element, architecture.as_ptr(), version.as_ptr())
    })
    .expect("it cannot fail")
}

/// Returns the user's folder for compiled kernels.
pub fn cache_folder() -> String {
    // SAFETY: no strings go in.
    text_of(|text| unsafe { kernels_cache_folder(text) }).expect("it cannot fail")
}

/// Returns what the cache has under this name, or `result`, which it then writes; `None` fails with "compiled".
pub fn cached(folder: &str, name: &str, result: Option<&str>) -> Result<String, String> {
    let (folder, name, result) = (c_string(folder), c_string(name), result.map(c_string));
    let result = result.as_ref().map_or(null(), |result| result.as_ptr());
    // SAFETY: C strings that live for the call, or null for the last.
    text_of(|text| unsafe { kernels_cached(text, folder.as_ptr(), name.as_ptr(), result) })
}
