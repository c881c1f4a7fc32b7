//! Parquet and Arrow files: rows as JSON objects, as `datasets` gives them: a list column is an array, a struct column
//! an object with all its fields, a missing value `null`; [classes](ClassLabels) may have names. Needs the feature
//! `columnar`.

#[cfg(feature = "columnar")]
mod claimed;

use super::class_labels::{ClassLabels, ClassValues};
use super::input::Input;
use super::pieces::{Form, Object};
use super::record::Format;
use crate::error::{Error, Result, catch_panic};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Calls `each` with the number of every row, counted from 1, and its columns; of a piece, with its rows. Returns the
/// classes that the file names.
///
/// # Errors
/// Exit 2: a file that cannot be read, or is damaged or not of the format; a program without the feature.
pub(super) fn objects(
    input: &mut Input,
    format: Format,
    classes: ClassValues,
    mut each: impl FnMut(usize, Result<Map<String, Value>, String>),
) -> Result<Arc<ClassLabels>> {
    let base = input.number(0);
    let mut pass = |labels: &ClassLabels, (row, mut object): Object| {
        if let (Ok(object), ClassValues::Names) = (&mut object, classes) {
            labels.name_classes(object);
        }
        each(base + row, object);
    };
    if let (Some(objects), Some(Form::Rows(labels))) = (input.objects(), input.form()) {
        objects.iter().for_each(|object| pass(labels, object.clone()));
        return Ok(Arc::clone(labels));
    }
    let mut batches = Batches::open(input.path(), format)?;
    let labels = Arc::clone(&batches.labels);
    while let Some(objects) = batches.next(0)? {
        objects.into_iter().for_each(|object| pass(&labels, object));
    }
    Ok(labels)
}

/// The rows of a file, some at a time, with the numbers of classes.
pub(super) struct Batches {
    /// The classes that the file names.
    pub labels: Arc<ClassLabels>,
    inner: Inner,
    path: PathBuf,
    format: Format,
}

impl Batches {
    /// Opens a file.
    ///
    /// # Errors
    /// As [`objects`].
    pub fn open(path: &Path, format: Format) -> Result<Self> {
        if !cfg!(feature = "columnar") {
            return Err(Error::input(format!(
                "{}: this program was built without the Cargo feature columnar, which reads Parquet and Arrow files: \
                 build it with the feature, or convert the file to JSONL",
                path.display()
            )));
        }
        let (inner, metadata) = careful(path, format, || Inner::open(path, format))?;
        let labels = Arc::new(ClassLabels::of(metadata.as_deref()));
        Ok(Batches { labels, inner, path: path.to_owned(), format })
    }

    /// Returns the next rows with their numbers, at least one, without those up to row `skip`; `None` at the end.
    ///
    /// # Errors
    /// As [`objects`].
    pub fn next(&mut self, skip: usize) -> Result<Option<Vec<Object>>> {
        let Batches { inner, path, format, .. } = self;
        careful(path, *format, || inner.next(skip))
    }
}

/// Does a part of reading a file. The libraries panic on some damaged files.
fn careful<T>(path: &Path, format: Format, read: impl FnOnce() -> Result<T, String>) -> Result<T> {
    let name = if format == Format::Parquet { "Parquet" } else { "Arrow" };
    catch_panic(read).unwrap_or_else(Err).map_err(|why| {
        let what = match why.split_once("Disabled feature at compile time: ") {
            Some((_, codec)) => {
                format!("compressed with {codec}, which is not supported: write it with zstd or snappy")
            }
            None => {
                format!("not a complete {name} file, or a damaged one: {why}; copy it again, or write it again")
            }
        };
        Error::input(format!("{}: {what}", path.display()))
    })
}

#[cfg(not(feature = "columnar"))]
mod with_arrow {
    use super::*;

    /// Never made: [`Batches::open`] refuses before.
    pub(super) enum Inner {}

    impl Inner {
        pub fn open(_: &Path, _: Format) -> Result<(Self, Option<String>), String> {
            Err("the feature columnar is missing".into())
        }

        pub fn next(&mut self, _: usize) -> Result<Option<Vec<Object>>, String> {
            match *self {}
        }
    }
}

use with_arrow::Inner;

#[cfg(feature = "columnar")]
mod with_arrow {
    use super::*;
    use arrow_array::cast::AsArray;
    use arrow_array::{Array, ArrayRef, RecordBatch, types};
    use arrow_ipc::reader::{FileReader, StreamReader};
    use arrow_schema::{ArrowError, DataType, Field, TimeUnit};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use std::fs::File;
    use std::io::{BufReader, Read, Seek};

    /// Rows of a Parquet file that are in memory at a time.
    const ROWS: usize = 1024;
    /// The key of what `datasets` writes into the metadata of a file.
    const FEATURES: &str = "huggingface";
    /// The start of an Arrow file, before its messages. A stream has none.
    const MAGIC: &[u8; 8] = b"ARROW1\0\0";
    /// The extension type of texts that are JSON: `datasets` has it for columns and fields of several types (`Json`).
    const JSON: &str = "arrow.json";

    /// The batches of a file that is open.
    pub(super) struct Inner {
        batches: Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>,
        /// Number of rows read so far.
        row: usize,
    }

    impl Inner {
        /// Returns the batches, and what `datasets` has written into the metadata.
        pub fn open(path: &Path, format: Format) -> Result<(Self, Option<String>), String> {
            let why = |e: &dyn std::fmt::Display| e.to_string();
            let mut file = File::open(path).map_err(|e| why(&e))?;
            if format == Format::Parquet {
                let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| why(&e))?;
                let pairs = reader.metadata().file_metadata().key_value_metadata();
                let features = pairs.and_then(|pairs| pairs.iter().find(|pair| pair.key == FEATURES)?.value.clone());
                let reader = reader.with_batch_size(ROWS).build().map_err(|e| why(&e))?;
                return Ok((Inner { batches: Box::new(reader), row: 0 }, features));
            }
            let mut magic = [0; MAGIC.len()];
            let is_file = file.read_exact(&mut magic).is_ok() && magic[..6] == MAGIC[..6];
            file.rewind().map_err(|e| why(&e))?;
            claimed::check(&file, if is_file { MAGIC.len() as u64 } else { 0 })?;
            let file = BufReader::new(file);
            if is_file {
                let reader = FileReader::try_new(file, None).map_err(|e| why(&e))?;
                let features = reader.schema().metadata().get(FEATURES).cloned();
                return Ok((Inner { batches: Box::new(reader), row: 0 }, features));
            }
            let reader = StreamReader::try_new(file, None).map_err(|e| why(&e))?;
            let features = reader.schema().metadata().get(FEATURES).cloned();
            Ok((Inner { batches: Box::new(reader), row: 0 }, features))
        }

        pub fn next(&mut self, skip: usize) -> Result<Option<Vec<Object>>, String> {
            for batch in &mut self.batches {
                let batch = batch.map_err(|e| e.to_string())?;
                let first = self.row + 1;
                self.row += batch.num_rows();
                if self.row <= skip || batch.num_rows() == 0 {
                    continue;
                }
                let objects = rows(&batch, first);
                return Ok(Some(objects.into_iter().filter(|(row, _)| *row > skip).collect()));
            }
            Ok(None)
        }
    }

    /// Returns the rows of a batch, numbered from `first`.
    fn rows(batch: &RecordBatch, first: usize) -> Vec<Object> {
        let fields = batch.schema_ref().fields();
        let names: Vec<&String> = fields.iter().map(|field| field.name()).collect();
        let columns = batch.columns().iter().zip(fields);
        let mut columns: Vec<_> = columns.map(|(column, field)| of_field(column, field).into_iter()).collect();
        let row = |row: usize| {
            let mut map = Map::new();
            let mut twice = None;
            for (name, column) in names.iter().zip(&mut columns) {
                let before = map.insert((*name).clone(), column.next().unwrap_or_default());
                twice = twice.or(before.map(|_| format!("the column {name:?} is there twice: rename one")));
            }
            (row, twice.map_or(Ok(map), Err))
        };
        (first..first + batch.num_rows()).map(row).collect()
    }

    /// Returns a value for each row of a column, as [`values`]; texts that the field declares to be JSON are parsed.
    fn of_field(column: &ArrayRef, field: &Field) -> Vec<Value> {
        let mut all = values(column);
        if field.extension_type_name() == Some(JSON) {
            for value in &mut all {
                if let Some(json) = value.as_str().and_then(|text| serde_json::from_str(text).ok()) {
                    *value = json;
                }
            }
        }
        all
    }

    /// Returns a value for each row of a column; `null` for a type that JSON has no value for.
    fn values(column: &ArrayRef) -> Vec<Value> {
        macro_rules! numbers {
            ($type:ty) => {
                column.as_primitive::<$type>().iter().map(Value::from).collect()
            };
        }
        macro_rules! texts {
            ($array:expr) => {
                $array.iter().map(Value::from).collect()
            };
        }
        macro_rules! bytes {
            ($array:expr) => {
                $array.iter().map(|bytes| bytes.and_then(|bytes| std::str::from_utf8(bytes).ok()).into()).collect()
            };
        }
        macro_rules! decimals {
            ($type:ty) => {{
                let array = column.as_primitive::<$type>();
                each(column, |i| array.value_as_string(i).into())
            }};
        }
        macro_rules! slices {
            ($list:expr, $field:expr) => {{
                let list = $list;
                lists(column, of_field(list.values(), $field), |i| {
                    (list.value_offsets()[i] as usize, list.value_length(i) as usize)
                })
            }};
        }
        // Lists that may overlap.
        macro_rules! views {
            ($list:expr, $field:expr) => {{
                let list = $list;
                let all = of_field(list.values(), $field);
                each(column, |i| {
                    let start = list.value_offset(i) as usize;
                    all.get(start..start + list.value_size(i) as usize).unwrap_or_default().to_vec().into()
                })
            }};
        }
        macro_rules! runs {
            ($type:ty, $field:expr) => {{
                let run = column.as_run::<$type>();
                let all = of_field(run.values(), $field);
                (0..column.len()).map(|i| all.get(run.get_physical_index(i)).cloned().unwrap_or_default()).collect()
            }};
        }
        // Dates and times as text.
        macro_rules! times {
            ($type:ty, $to:ident) => {{
                let array = column.as_primitive::<$type>();
                each(column, |i| array.$to(i).map(|time| time.to_string()).into())
            }};
        }
        match column.data_type() {
            DataType::Boolean => column.as_boolean().iter().map(Value::from).collect(),
            DataType::Int8 => numbers!(types::Int8Type),
            DataType::Int16 => numbers!(types::Int16Type),
            DataType::Int32 => numbers!(types::Int32Type),
            DataType::Int64 => numbers!(types::Int64Type),
            DataType::UInt8 => numbers!(types::UInt8Type),
            DataType::UInt16 => numbers!(types::UInt16Type),
            DataType::UInt32 => numbers!(types::UInt32Type),
            DataType::UInt64 => numbers!(types::UInt64Type),
            DataType::Float16 => {
                let array = column.as_primitive::<types::Float16Type>();
                array.iter().map(|value| value.map(f32::from).into()).collect()
            }
            DataType::Float32 => numbers!(types::Float32Type),
            DataType::Float64 => numbers!(types::Float64Type),
            DataType::Utf8 => texts!(column.as_string::<i32>()),
            DataType::LargeUtf8 => texts!(column.as_string::<i64>()),
            DataType::Utf8View => texts!(column.as_string_view()),
            DataType::Binary => bytes!(column.as_binary::<i32>()),
            DataType::LargeBinary => bytes!(column.as_binary::<i64>()),
            DataType::BinaryView => bytes!(column.as_binary_view()),
            DataType::Date32 => times!(types::Date32Type, value_as_date),
            DataType::Date64 => times!(types::Date64Type, value_as_date),
            DataType::Timestamp(TimeUnit::Second, _) => times!(types::TimestampSecondType, value_as_datetime),
            DataType::Timestamp(TimeUnit::Millisecond, _) => times!(types::TimestampMillisecondType, value_as_datetime),
            DataType::Timestamp(TimeUnit::Microsecond, _) => times!(types::TimestampMicrosecondType, value_as_datetime),
            DataType::Timestamp(TimeUnit::Nanosecond, _) => times!(types::TimestampNanosecondType, value_as_datetime),
            DataType::Time32(TimeUnit::Second) => times!(types::Time32SecondType, value_as_time),
            DataType::Time32(_) => times!(types::Time32MillisecondType, value_as_time),
            DataType::Time64(TimeUnit::Microsecond) => times!(types::Time64MicrosecondType, value_as_time),
            DataType::Time64(_) => times!(types::Time64NanosecondType, value_as_time),
            DataType::Decimal128(..) => decimals!(types::Decimal128Type),
            DataType::Decimal256(..) => decimals!(types::Decimal256Type),
            DataType::List(field) => slices!(column.as_list::<i32>(), field),
            DataType::LargeList(field) => slices!(column.as_list::<i64>(), field),
            DataType::FixedSizeList(field, size) => {
                let (list, size) = (column.as_fixed_size_list(), *size as usize);
                lists(column, of_field(list.values(), field), |i| (i * size, size))
            }
            DataType::ListView(field) => views!(column.as_list_view::<i32>(), field),
            DataType::LargeListView(field) => views!(column.as_list_view::<i64>(), field),
            DataType::RunEndEncoded(ends, field) => match ends.data_type() {
                DataType::Int16 => runs!(types::Int16Type, field),
                DataType::Int32 => runs!(types::Int32Type, field),
                _ => runs!(types::Int64Type, field),
            },
            DataType::Struct(fields) => {
                let array = column.as_struct();
                let columns = array.columns().iter().zip(fields);
                let mut columns: Vec<_> = columns.map(|(column, field)| of_field(column, field).into_iter()).collect();
                let row = |i: usize| {
                    let cells = columns.iter_mut().map(|column| column.next().unwrap_or_default());
                    let map: Map<String, Value> = fields.iter().map(|field| field.name().clone()).zip(cells).collect();
                    if array.is_null(i) { Value::Null } else { Value::Object(map) }
                };
                (0..column.len()).map(row).collect()
            }
            DataType::Map(..) => {
                let map = column.as_map();
                let fields = map.entries().fields();
                let (keys, entries) = (values(map.keys()), of_field(map.values(), &fields[1]));
                let name = |key: &Value| key.as_str().map_or_else(|| key.to_string(), str::to_owned);
                each(column, |i| {
                    let start = map.value_offsets()[i] as usize;
                    let own = start..start + map.value_length(i) as usize;
                    own.map(|at| (name(&keys[at]), entries[at].clone())).collect::<Map<_, _>>().into()
                })
            }
            // One of categories that has none has no values either.
            DataType::Dictionary(..) if column.as_any_dictionary().values().is_empty() => {
                vec![Value::Null; column.len()]
            }
            DataType::Dictionary(..) => {
                let dictionary = column.as_any_dictionary();
                // Keys of null values are arbitrary.
                let (all, keys) = (values(dictionary.values()), dictionary.normalized_keys());
                each(column, |i| all.get(keys[i]).cloned().unwrap_or_default())
            }
            _ => vec![Value::Null; column.len()],
        }
    }

    fn each(column: &ArrayRef, value: impl Fn(usize) -> Value) -> Vec<Value> {
        (0..column.len()).map(|i| if column.is_null(i) { Value::Null } else { value(i) }).collect()
    }

    /// Divides the values of a list column; `bounds` returns start and length of a row's list.
    fn lists(column: &ArrayRef, mut all: Vec<Value>, bounds: impl Fn(usize) -> (usize, usize)) -> Vec<Value> {
        let list = |i| {
            let (start, length) = bounds(i);
            let own = all.get_mut(start..start + length).unwrap_or_default();
            Value::Array(own.iter_mut().map(Value::take).collect())
        };
        let mut list = list;
        (0..column.len()).map(|i| if column.is_null(i) { Value::Null } else { list(i) }).collect()
    }
}

#[cfg(test)]
#[cfg(feature = "columnar")]
mod tests;
