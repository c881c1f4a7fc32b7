//! Libraries loaded at run time: a missing library or function is an error, not a panic.

use std::ffi::{CStr, CString, c_void};

/// A loaded library. It stays loaded until the process ends.
#[derive(Clone, Copy)]
pub struct Library(*mut c_void);

impl Library {
    /// Loads by name (searched like a linked library) or by path. The error is the loader's text.
    pub fn open(name: &str) -> Result<Library, String> {
        let c_name = CString::new(name).map_err(|e| e.to_string())?;
        // Resolve a library's own symbols first: libtorch has loaded another NCCL with the same function names.
        let mode = libc::RTLD_NOW | libc::RTLD_GLOBAL | libc::RTLD_DEEPBIND;
        // SAFETY: a C string; the initialisers of the libraries that we name have no preconditions.
        let handle = unsafe { libc::dlopen(c_name.as_ptr(), mode) };
        if handle.is_null() {
            // SAFETY: dlerror returns null or a C string that lives until the thread's next call.
            let text = unsafe { libc::dlerror() };
            return Err(if text.is_null() {
                format!("{name} cannot be loaded")
            } else {
                // SAFETY: see above.
                unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
            });
        }
        Ok(Library(handle))
    }

    /// Returns the address of a function, if the library has it.
    pub fn symbol(self, name: &str) -> Option<*mut c_void> {
        let name = CString::new(name).ok()?;
        // SAFETY: a handle that is never closed, and a C string.
        let address = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        (!address.is_null()).then_some(address)
    }
}

/// Defines a table of a library's functions, and `load`, which returns the names of missing functions.
macro_rules! functions {
    ($table:ident { $(fn $name:ident($($kind:ty),* $(,)?) -> $result:ty;)* }) => {
        #[allow(non_snake_case, reason = "the library's own names")]
        pub(in crate::comm) struct $table {
            $($name: unsafe extern "C" fn($($kind),*) -> $result,)*
        }

        impl $table {
            pub(in crate::comm) fn load(library: $crate::comm::ffi::library::Library) -> Result<Self, Vec<&'static str>> {
                let names = [$(stringify!($name)),*];
                let missing: Vec<_> = names.into_iter().filter(|name| library.symbol(name).is_none()).collect();
                if !missing.is_empty() {
                    return Err(missing);
                }
                Ok($table {
                    $($name: match library.symbol(stringify!($name)) {
                        // SAFETY: the library's function of this name has this type, by its header.
                        Some(address) => unsafe {
                            std::mem::transmute::<*mut std::ffi::c_void, unsafe extern "C" fn($($kind),*) -> $result>(address)
                        },
                        None => return Err(vec![stringify!($name)]),
                    },)*
                })
            }
        }
    };
}
pub(super) use functions;

#[cfg(test)]
mod tests {
    use super::*;

    functions!(Whole { fn getpid() -> i32; });
    mod lacking {
        #![allow(dead_code, reason = "it never loads")]
        functions!(Lacking { fn getpid() -> i32; fn no_such_function_here(i32) -> i32; });
    }

    #[test]
    fn missing_things_are_named() {
        assert!(Library::open("libnothing-of-this-name.so").err().unwrap().contains("libnothing-of-this-name.so"));
        assert!(Library::open("nul\0").is_err());
        let libc = Library::open("libc.so.6").unwrap();
        assert_eq!(lacking::Lacking::load(libc).err(), Some(vec!["no_such_function_here"]));
        let whole = Whole::load(libc).ok().unwrap();
        // SAFETY: no preconditions.
        assert_eq!(unsafe { (whole.getpid)() } as u32, std::process::id());
    }
}
