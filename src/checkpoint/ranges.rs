//! Reading parts of tensors: elements of a file go directly to where they are kept, without a copy of the whole tensor.
//!
//! A rank keeps ranges of a flat buffer, and a parameter is a range of it in row-major order. So what a rank keeps of a
//! tensor is a range of its elements, which is contiguous in the file unless the file has the transposed matrix.

use crate::checkpoint::tensors::TensorFile;
use crate::error::Result;
use std::ops::Range;
use tch::Tensor;

/// A buffer `[range]` of any dtype and device that holds these elements of a larger one.
pub type Target = (Range<i64>, Tensor);

/// Elements that are copied at a time: what they take of the file's map is given back after each.
const PIECE: i64 = 4 << 20;

/// Returns the parts of `targets` within `place`, a range of the same buffer, counted from its start.
pub fn within(targets: &[Target], place: &Range<i64>) -> Vec<Target> {
    let common = targets.iter().map(|(range, tensor)| (overlap(range, place), range.start, tensor));
    common
        .filter(|(both, ..)| !both.is_empty())
        .map(|(both, start, tensor)| {
            let part = tensor.narrow(0, both.start - start, both.end - both.start);
            (both.start - place.start..both.end - place.start, part)
        })
        .collect()
}

fn overlap(a: &Range<i64>, b: &Range<i64>) -> Range<i64> {
    a.start.max(b.start)..a.end.min(b.end)
}

/// Copies the elements of a tensor that each target holds, converted to its dtype.
///
/// # Errors
/// Those of [`TensorFile::kind`]; out of memory.
pub fn copy(file: &TensorFile, name: &str, targets: &[Target]) -> Result<()> {
    let _guard = tch::no_grad_guard();
    for (range, target) in targets {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + PIECE);
            let mut part = target.narrow(0, at - range.start, end - at);
            file.with(name, &(at..end), |values| Ok(part.f_copy_(values)?))?;
            at = end;
        }
    }
    Ok(())
}

/// Like [`copy`], of a matrix `[rows, columns]` that the file stores as `[columns, rows]`. Its elements are spread over
/// the whole tensor there, of which all pages are read.
///
/// # Errors
/// As [`copy`].
pub fn copy_transposed(file: &TensorFile, name: &str, (rows, columns): (i64, i64), targets: &[Target]) -> Result<()> {
    let _guard = tch::no_grad_guard();
    if targets.is_empty() {
        return Ok(());
    }
    file.with(name, &(0..rows * columns), |values| {
        let matrix = values.f_view([columns, rows])?.f_tr()?;
        for (range, target) in targets {
            let mut at = range.start;
            while at < range.end {
                let (row, column, left) = (at / columns, at % columns, range.end - at);
                // Whole rows at once, except for a part of the first and of the last.
                let (source, count) = if column == 0 && left >= columns {
                    (matrix.f_narrow(0, row, left / columns)?, left / columns * columns)
                } else {
                    let count = left.min(columns - column);
                    (matrix.f_select(0, row)?.f_narrow(0, column, count)?, count)
                };
                let part = target.narrow(0, at - range.start, count);
                part.f_view(source.size().as_slice())?.f_copy_(&source)?;
                at += count;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::tensor_writer::{Entry, Writer};
    use tch::{Device, Kind};

    /// Every range of a small matrix, plain and transposed, in every dtype of the file and of the target.
    #[test]
    fn every_range_is_that_of_the_whole_tensor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let kinds = [Kind::Double, Kind::Float, Kind::BFloat16, Kind::Half];
        let matrix = Tensor::arange(12, (Kind::Float, Device::Cpu)).view([4, 3]) / 7.0;
        let name = |kind: Kind| format!("{kind:?}");
        let entry = |kind: Kind| Entry { name: name(kind), shape: vec![4, 3], kind };
        let mut writer = Writer::create(&path, kinds.map(entry).to_vec()).unwrap();
        kinds.iter().for_each(|&kind| writer.write(&name(kind), &matrix).unwrap());
        writer.finish().unwrap();
        let file = TensorFile::open(&path).unwrap();
        for (from, to) in kinds.iter().flat_map(|&from| kinds.map(|to| (from, to))) {
            let whole = file.read(&name(from)).unwrap();
            for (start, end) in (0..=12).flat_map(|start| (start..=12).map(move |end| (start, end))) {
                let empty = || Tensor::full([end - start], -1.0, (to, Device::Cpu));
                let expected = |flat: Tensor| flat.narrow(0, start, end - start).to_kind(to);
                let target = (start..end, empty());
                copy(&file, &name(from), std::slice::from_ref(&target)).unwrap();
                assert_eq!(target.1, expected(whole.view([12])), "{from:?} to {to:?}, {start}..{end}");
                let target = (start..end, empty());
                copy_transposed(&file, &name(from), (3, 4), std::slice::from_ref(&target)).unwrap();
                let turned = whole.tr().contiguous().view([12]);
                assert_eq!(target.1, expected(turned), "{from:?} to {to:?}, {start}..{end}, transposed");
            }
        }
    }

    #[test]
    fn targets_are_cut_to_a_place() {
        let buffer = || Tensor::arange(10, (Kind::Int64, Device::Cpu));
        let cut = within(&[(0..10, buffer()), (5..15, buffer()), (20..30, buffer())], &(7..12));
        let seen: Vec<(Range<i64>, Vec<i64>)> =
            cut.iter().map(|(range, tensor)| (range.clone(), Vec::try_from(tensor).unwrap())).collect();
        assert_eq!(seen, [(0..3, vec![7, 8, 9]), (0..5, vec![2, 3, 4, 5, 6])]);
    }

    /// Files whose header is not padded: their tensors lie at any byte.
    #[test]
    fn tensors_need_not_be_aligned() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("odd.safetensors");
        let header = r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}"#;
        assert_eq!(header.len() % 4, 3, "the data begins at an odd byte");
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend([1.5f32, -2.0, 3.25].iter().flat_map(|x| x.to_le_bytes()));
        std::fs::write(&path, bytes).unwrap();
        let file = TensorFile::open(&path).unwrap();
        let target = (1..3, Tensor::zeros([2], (Kind::Float, Device::Cpu)));
        copy(&file, "a", std::slice::from_ref(&target)).unwrap();
        assert_eq!(Vec::<f32>::try_from(&target.1).unwrap(), [-2.0, 3.25]);
    }
}
