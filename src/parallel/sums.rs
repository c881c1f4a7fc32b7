//! Sums of gradients: of the rows of an embedding matrix, and of squares.

use crate::error::Result;
use crate::ffi;
use tch::{Kind, Tensor};

/// Adds `grad` `[T, width]` to the rows `ids` `[T]` of a matrix. In half precision the additions to a row are summed in
/// fp32 and rounded once: thousands of tokens may look up the same row, and bf16 loses terms below 1/256 of the sum.
pub fn add_rows(table: &mut Tensor, ids: &Tensor, grad: &Tensor) -> Result<()> {
    if table.kind() == Kind::Float {
        _ = table.f_index_add_(0, ids, &grad.f_to_kind(Kind::Float)?)?;
        return Ok(());
    }
    let (rows, width, n) = (table.size()[0], table.size()[1], grad.size()[0]);
    let options = (Kind::Float, table.device());
    let grad = grad.f_to_kind(Kind::Float)?;
    if rows <= n {
        let sums = Tensor::f_zeros([rows, width], options)?.f_index_add_(0, ids, &grad)?;
        _ = table.f_add_(&sums)?;
        return Ok(());
    }
    // Allocate the maximum number of distinct ids, so that the host need not know the number; unused sums are zero.
    let (sorted, order) = ids.f_sort(0, false)?;
    let begins = sorted.f_diff::<Tensor>(1, 0, None, None)?.f_ne(0)?;
    let indices =
        Tensor::f_cat(&[begins.f_new_zeros([1], (Kind::Int64, table.device()))?, begins.f_cumsum(0, Kind::Int64)?], 0)?;
    // Unused sums go to different rows, because additions to one row are serialized.
    let distinct = Tensor::f_arange(n, (Kind::Int64, table.device()))?.f_index_copy_(0, &indices, &sorted)?;
    let sums = Tensor::f_zeros([n, width], options)?.f_index_add_(0, &indices, &grad.f_index_select(0, &order)?)?;
    _ = table.f_index_add_(0, &distinct, &sums.f_to_kind(table.kind())?)?;
    Ok(())
}

/// Adds the sum of squares of a flat tensor to `total`, f64 `[1]` on its device. Short runs are summed in f32, the runs
/// in f64: the error of one f32 sum over millions of elements would exceed the tolerance between world sizes.
pub fn add_squares(total: &mut Tensor, x: &Tensor) -> Result<()> {
    const RUN: i64 = 1024;
    /// Half precision is converted in pieces.
    const PIECE: i64 = RUN << 12;
    if let Some(squares) = ffi::kernels::squares(x)? {
        _ = total.f_add_(&squares)?;
        return Ok(());
    }
    let n = x.numel() as i64;
    for start in (0..n).step_by(PIECE as usize) {
        let piece = x.f_narrow(0, start, PIECE.min(n - start))?.f_to_kind(Kind::Float)?;
        let n = piece.numel() as i64;
        let whole = n / RUN * RUN;
        let rest = n - whole;
        for (part, run) in [(piece.f_narrow(0, 0, whole)?, RUN), (piece.f_narrow(0, whole, rest)?, rest.max(1))] {
            let norms = part.f_view([-1, run])?.f_norm_scalaropt_dim(2, [1i64].as_slice(), false)?;
            _ = total.f_add_(&norms.f_to_kind(Kind::Double)?.f_square()?.f_sum(Kind::Double)?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    /// Summed in bf16, 8,192 additions of about 1 end at 256.
    #[test]
    fn many_additions_to_a_row_are_rounded_once() {
        let n = 8192;
        for kind in [Kind::BFloat16, Kind::Half] {
            // Few rows, like position embeddings, and a vocabulary of which the tokens use a part.
            for rows in [10, 50_000] {
                let ids = Tensor::arange(n, (Kind::Int64, Device::Cpu)).remainder(7).square();
                let ids = if rows == 10 { ids.remainder(10) } else { ids * 1000 + 3 };
                let grad = ((Tensor::arange(n * 3, (Kind::Float, Device::Cpu)).sin() + 0.5) / 16.0).to_kind(kind);
                let grad = grad.view([n, 3]);
                let mut table = Tensor::zeros([rows, 3], (kind, Device::Cpu));
                add_rows(&mut table, &ids, &grad).unwrap();
                let exact = Tensor::zeros([rows, 3], (Kind::Float, Device::Cpu));
                let exact = exact.index_add(0, &ids, &grad.to_kind(Kind::Float)).to_kind(kind);
                let difference = (table.to_kind(Kind::Float) - exact.to_kind(Kind::Float)).abs();
                // The order of the fp32 additions may differ, which affects at most the last bit of the result.
                let last_bit = exact.to_kind(Kind::Float).abs() * if kind == Kind::Half { 1e-3 } else { 8e-3 };
                assert!(difference.le_tensor(&last_bit).all().int64_value(&[]) == 1, "{kind:?}, {rows} rows");
                assert!(difference.count_nonzero(None::<i64>).int64_value(&[]) <= 1, "{kind:?}, {rows} rows");
                assert!(exact.count_nonzero(None::<i64>).int64_value(&[]) >= 9, "{kind:?}: several rows are used");
            }
        }
        // One row: equal to the fp32 sum rounded once, bit for bit.
        let ids = Tensor::full([n], 5, (Kind::Int64, Device::Cpu));
        let grad = Tensor::full([n, 2], 1.0 + 1.0 / 128.0, (Kind::BFloat16, Device::Cpu));
        for rows in [8, 20_000] {
            let mut table = Tensor::zeros([rows, 2], (Kind::BFloat16, Device::Cpu));
            add_rows(&mut table, &ids, &grad).unwrap();
            let exact = Tensor::from(8192.0f32 * (1.0 + 1.0 / 128.0)).to_kind(Kind::BFloat16);
            assert!(table.get(5).eq_tensor(&exact).all().int64_value(&[]) == 1, "{table:?} and {exact:?}");
        }
    }

    #[test]
    fn sums_of_squares_are_those_of_f64() {
        for n in [0, 1, 1023, 1024, 5000, 9_000_000] {
            let x = Tensor::arange(n, (Kind::Float, Device::Cpu)).sin() + 1.0;
            for x in [x.shallow_clone(), x.to_kind(Kind::BFloat16)] {
                let exact = x.to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[]);
                let mut ours = Tensor::zeros([], (Kind::Double, Device::Cpu));
                add_squares(&mut ours, &x).unwrap();
                let ours = ours.double_value(&[]);
                // An f32 norm has a relative error of at most half of 2^-23, its square twice that; longer sums have
                // less.
                assert!((ours - exact).abs() <= 5e-7 * exact, "{n}: {ours} and {exact}");
            }
        }
    }
}
