//! A reader of pickles (Python's `pickletools.py` documents the opcodes) that knows what a dict of tensors is made of,
//! and nothing else. It executes nothing: a name other than these, or another opcode, is an error with that name.
//!
//! Values are numbers of objects in one list, so that reading needs memory in proportion to the pickle, and neither
//! nested nor cyclic values need recursion.

use crate::checkpoint::formats::bytes::Cursor;
use safetensors::tensor::Dtype;
use std::collections::HashMap;
use std::ops::Range;

/// A value of a pickle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// A number that the reader does not need.
    Other,
    /// Bytes of the pickle with UTF-8 text.
    Text(usize, usize),
    /// A name: module and attribute.
    Name(Known),
    /// A list or a tuple, by its number in [`Pickle::lists`].
    List(usize),
    /// By its number in [`Pickle::dicts`].
    Dict(usize),
    /// By its number in [`Pickle::storages`].
    Storage(usize),
    /// By its number in [`Pickle::tensors`].
    Tensor(usize),
}

/// The names that a state dict has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Dtype),
}

/// A storage of a file: tensors are views of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    pub dtype: Dtype,
    /// Its name, a text.
    pub key: Value,
    /// The number of elements.
    pub size: usize,
}

/// A view of a storage; all numbers are in elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The number of the storage.
    pub storage: usize,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// What a pickle contains.
#[derive(Debug, Default)]
pub struct Pickle {
    pub lists: Vec<Vec<Value>>,
    pub dicts: Vec<Vec<(Value, Value)>>,
    pub storages: Vec<Storage>,
    pub tensors: Vec<View>,
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
}

/// No weight has more. A bound, because a list can be used again and again.
const MAX_DIMENSIONS: usize = 16;

/// Why a pickle is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The pickle is damaged.
    Damaged(String),
    /// It has something that no state dict has: a name or an opcode.
    Unknown(String),
}

fn damaged(why: impl Into<String>) -> Refusal {
    Refusal::Damaged(why.into())
}

impl Pickle {
    /// Reads the pickle of `bytes` that begins at `start`; returns its value and where it ends.
    ///
    /// # Errors
    /// What is wrong, with the position.
    pub fn read(&mut self, bytes: &[u8], start: usize) -> Result<(Value, usize), Refusal> {
        let mut at = Cursor::new(bytes, start);
        self.stack.clear();
        self.marks.clear();
        self.memo.clear();
        loop {
            let position = at.at;
            let opcode = at.take(1).ok_or_else(|| damaged("the pickle has no end"))?[0];
            match self.step(opcode, &mut at, bytes) {
                Ok(Some(value)) => return Ok((value, at.at)),
                Ok(None) => {}
                Err(Refusal::Damaged(why)) => return Err(damaged(format!("the pickle at byte {position}: {why}"))),
                Err(unknown) => return Err(unknown),
            }
        }
    }

    /// Performs an opcode. Returns the value of the pickle at its end.
    fn step(&mut self, opcode: u8, at: &mut Cursor, bytes: &[u8]) -> Result<Option<Value>, Refusal> {
        let cut = || damaged("it is cut off");
        match opcode {
            b'.' => return self.pop().map(Some),
            // PROTO and FRAME
            0x80 => _ = at.take(1).ok_or_else(cut)?,
            0x95 => _ = at.take(8).ok_or_else(cut)?,
            b'(' => self.marks.push(self.stack.len()),
            b'N' => self.stack.push(Value::None),
            0x88 | 0x89 => self.stack.push(Value::Bool(opcode == 0x88)),
            // BININT, BININT1, BININT2, LONG1
            b'J' => self.stack.push(Value::Int(i64::from(i32::from_le_bytes(at.array().ok_or_else(cut)?)))),
            b'K' => self.stack.push(Value::Int(at.number(1).ok_or_else(cut)? as i64)),
            b'M' => self.stack.push(Value::Int(at.number(2).ok_or_else(cut)? as i64)),
            0x8a => {
                let length = at.length(1).ok_or_else(cut)?;
                let digits = at.take(length).ok_or_else(cut)?;
                self.stack.push(if length > 8 { Value::Other } else { Value::Int(signed(digits)) });
            }
            // BINFLOAT
            b'G' => {
                at.take(8).ok_or_else(cut)?;
                self.stack.push(Value::Other);
            }
            // BINUNICODE, SHORT_BINUNICODE, BINUNICODE8, BINSTRING, SHORT_BINSTRING
            b'X' | 0x8c | 0x8d | b'T' | b'U' => {
                let width = match opcode {
                    0x8c | b'U' => 1,
                    0x8d => 8,
                    _ => 4,
                };
                let length = at.length(width).ok_or_else(cut)?;
                let start = at.at;
                let text = at.take(length).ok_or_else(cut)?;
                std::str::from_utf8(text).map_err(|_| damaged("a text that is not UTF-8"))?;
                self.stack.push(Value::Text(start, start + length));
            }
            // GLOBAL, STACK_GLOBAL
            b'c' => {
                let mut line = || at.line().and_then(|line| std::str::from_utf8(line).ok()).ok_or_else(cut);
                let (module, name) = (line()?, line()?);
                self.stack.push(Value::Name(known(module, name)?));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let text = |value| text_of(bytes, value).ok_or_else(|| damaged("a name that is no text"));
                self.stack.push(Value::Name(known(text(module)?, text(name)?)?));
            }
            // EMPTY_TUPLE, TUPLE1 to 3, TUPLE, EMPTY_LIST, EMPTY_DICT
            b')' | b']' => self.push_list(Vec::new()),
            0x85..=0x87 => {
                let items = self.pop_many(usize::from(opcode) - 0x84)?;
                self.push_list(items);
            }
            b't' => {
                let items = self.pop_to_mark()?;
                self.push_list(items);
            }
            b'}' => self.push_dict(),
            // APPEND, APPENDS, SETITEM, SETITEMS
            b'a' | b'e' => {
                let items = if opcode == b'a' { vec![self.pop()?] } else { self.pop_to_mark()? };
                match self.stack.last() {
                    Some(&Value::List(list)) => self.lists[list].extend(items),
                    _ => return Err(damaged("it appends to no list")),
                }
            }
            b's' | b'u' => {
                let items = if opcode == b's' { self.pop_many(2)? } else { self.pop_to_mark()? };
                let (pairs, rest) = items.as_chunks::<2>();
                match self.stack.last() {
                    Some(&Value::Dict(dict)) if rest.is_empty() => {
                        self.dicts[dict].extend(pairs.iter().map(|&[key, value]| (key, value)))
                    }
                    _ => return Err(damaged("it sets items of no dict")),
                }
            }
            // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET
            b'q' | b'r' | 0x94 => {
                let number = match opcode {
                    0x94 => self.memo.len() as u64,
                    _ => at.number(if opcode == b'q' { 1 } else { 4 }).ok_or_else(cut)?,
                };
                let value = *self.stack.last().ok_or_else(|| damaged("an empty stack"))?;
                self.memo.insert(number as u32, value);
            }
            b'h' | b'j' => {
                let number = at.number(if opcode == b'h' { 1 } else { 4 }).ok_or_else(cut)?;
                let value = self.memo.get(&(number as u32)).ok_or_else(|| damaged("a value that it does not have"))?;
                self.stack.push(*value);
            }
            // BINPERSID, REDUCE, BUILD
            b'Q' => {
                let id = self.pop()?;
                self.push_storage(bytes, id).ok_or_else(|| damaged("a storage that torch.save does not write"))?;
            }
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.reduce(function, arguments).ok_or_else(|| damaged("a tensor that torch.save does not write"))?;
            }
            // Attributes of the dict: `_metadata`, the versions of the modules.
            b'b' => match (self.pop()?, self.stack.last()) {
                (_, Some(Value::Dict(_))) => {}
                _ => return Err(Refusal::Unknown("attributes of an object (opcode BUILD)".into())),
            },
            other => return Err(Refusal::Unknown(format!("opcode {}", opcode_name(other)))),
        }
        Ok(None)
    }

    fn pop(&mut self) -> Result<Value, Refusal> {
        let least = self.marks.last().copied().unwrap_or_default();
        if self.stack.len() <= least {
            return Err(damaged("an empty stack"));
        }
        self.stack.pop().ok_or_else(|| damaged("an empty stack"))
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Value>, Refusal> {
        let mut items = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        Ok(items)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>, Refusal> {
        let mark = self.marks.pop().filter(|&mark| mark <= self.stack.len());
        mark.map(|mark| self.stack.split_off(mark)).ok_or_else(|| damaged("a missing mark"))
    }

    fn push_list(&mut self, items: Vec<Value>) {
        self.stack.push(Value::List(self.lists.len()));
        self.lists.push(items);
    }

    fn push_dict(&mut self) {
        self.stack.push(Value::Dict(self.dicts.len()));
        self.dicts.push(Vec::new());
    }

    /// Pushes the storage with this persistent id: `("storage", type, key, location, size)`. The legacy format has a
    /// sixth item, for a storage that is a view of another.
    fn push_storage(&mut self, bytes: &[u8], id: Value) -> Option<()> {
        let Value::List(id) = id else { return None };
        let storage = match self.lists[id][..] {
            [word, Value::Name(Known::Storage(dtype)), key, _, Value::Int(size)]
            | [word, Value::Name(Known::Storage(dtype)), key, _, Value::Int(size), Value::None]
                if text_of(bytes, word) == Some("storage") =>
            {
                text_of(bytes, key)?;
                Storage { dtype, key, size: usize::try_from(size).ok()? }
            }
            _ => return None,
        };
        self.stack.push(Value::Storage(self.storages.len()));
        self.storages.push(storage);
        Some(())
    }

    /// Pushes what a known function returns: no other is ever called.
    fn reduce(&mut self, function: Value, arguments: Value) -> Option<()> {
        let (Value::Name(function), Value::List(arguments)) = (function, arguments) else { return None };
        match (function, &self.lists[arguments][..]) {
            (Known::OrderedDict, []) => self.push_dict(),
            (Known::RebuildParameter, &[tensor @ Value::Tensor(_), ..]) => self.stack.push(tensor),
            (
                Known::RebuildTensor,
                &[Value::Storage(storage), Value::Int(offset), Value::List(shape), Value::List(strides), ..],
            ) => {
                let sizes = |list: usize| -> Option<Vec<usize>> {
                    let size = |value: &Value| match value {
                        Value::Int(size) => usize::try_from(*size).ok(),
                        _ => None,
                    };
                    let sizes = &self.lists[list];
                    if sizes.len() > MAX_DIMENSIONS { None } else { sizes.iter().map(size).collect() }
                };
                let (shape, strides) = (sizes(shape)?, sizes(strides)?);
                self.stack.push(Value::Tensor(self.tensors.len()));
                self.tensors.push(View { storage, offset: usize::try_from(offset).ok()?, shape, strides });
            }
            _ => return None,
        }
        Some(())
    }
}

/// Returns the text of a value.
pub fn text_of(bytes: &[u8], value: Value) -> Option<&str> {
    match value {
        Value::Text(start, end) => std::str::from_utf8(bytes.get(Range { start, end })?).ok(),
        _ => None,
    }
}

/// Returns a number of at most 8 bytes, in two's complement.
fn signed(digits: &[u8]) -> i64 {
    let negative = digits.last().is_some_and(|&byte| byte >= 0x80);
    let mut bytes = [if negative { 0xff } else { 0 }; 8];
    bytes[..digits.len()].copy_from_slice(digits);
    i64::from_le_bytes(bytes)
}

fn known(module: &str, name: &str) -> Result<Known, Refusal> {
    let storage = |dtype| Ok(Known::Storage(dtype));
    match (module, name) {
        ("collections", "OrderedDict") => Ok(Known::OrderedDict),
        ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => Ok(Known::RebuildTensor),
        ("torch._utils", "_rebuild_parameter") => Ok(Known::RebuildParameter),
        ("torch", "DoubleStorage") => storage(Dtype::F64),
        ("torch", "FloatStorage") => storage(Dtype::F32),
        ("torch", "HalfStorage") => storage(Dtype::F16),
        ("torch", "BFloat16Storage") => storage(Dtype::BF16),
        ("torch", "LongStorage") => storage(Dtype::I64),
        ("torch", "IntStorage") => storage(Dtype::I32),
        ("torch", "ShortStorage") => storage(Dtype::I16),
        ("torch", "CharStorage") => storage(Dtype::I8),
        ("torch", "ByteStorage") => storage(Dtype::U8),
        ("torch", "BoolStorage") => storage(Dtype::BOOL),
        ("torch", "ComplexFloatStorage") => storage(Dtype::C64),
        _ => Err(Refusal::Unknown(format!("{module}.{name}"))),
    }
}

/// Returns the name of an opcode that is not read, for messages.
fn opcode_name(opcode: u8) -> String {
    const NAMES: &[(u8, &str)] = &[
        (b'0', "POP"),
        (b'1', "POP_MARK"),
        (b'2', "DUP"),
        (b'F', "FLOAT"),
        (b'I', "INT"),
        (b'L', "LONG"),
        (b'S', "STRING"),
        (b'V', "UNICODE"),
        (b'P', "PERSID"),
        (b'i', "INST"),
        (b'o', "OBJ"),
        (b'd', "DICT"),
        (b'l', "LIST"),
        (b'g', "GET"),
        (b'p', "PUT"),
        (b'B', "BINBYTES"),
        (b'C', "SHORT_BINBYTES"),
        (0x81, "NEWOBJ"),
        (0x82, "EXT1"),
        (0x83, "EXT2"),
        (0x84, "EXT4"),
        (0x8b, "LONG4"),
        (0x8e, "BINBYTES8"),
        (0x8f, "EMPTY_SET"),
        (0x90, "ADDITEMS"),
        (0x91, "FROZENSET"),
        (0x92, "NEWOBJ_EX"),
        (0x96, "BYTEARRAY8"),
        (0x97, "NEXT_BUFFER"),
        (0x98, "READONLY_BUFFER"),
    ];
    NAMES.iter().find(|(code, _)| *code == opcode).map_or(format!("0x{opcode:02x}"), |(_, name)| (*name).to_owned())
}
