//! Adafactor (arXiv 1804.04235) as `transformers.Adafactor` with a given learning rate: no relative steps, no scaling by
//! the size of parameters, no first moment.

use crate::error::Result;
use crate::optim::gradient::{Part, narrow, overlap};
use crate::optim::pieces::{Piece, UnitUpdate};
use std::ops::Range;
use tch::{Kind, Tensor};

/// Added to squared gradients.
const EPSILON: f64 = 1e-30;
/// Root mean square of an update above which it is scaled down.
const CLIP_THRESHOLD: f64 = 1.0;
/// Exponent of the step number in the averages' decay rate.
const DECAY_RATE: f64 = -0.8;

/// Averages of squared gradients: of each row and each column of a matrix, of each element of a vector. They are small,
/// and every rank has those of the whole unit.
#[derive(Debug)]
pub struct Factors {
    /// f32 `[n]`: for each parameter the rows of its matrices, then their columns; the elements of its vectors.
    buffer: Tensor,
    /// Where the rows (or elements) and the columns of each piece are.
    places: Vec<Places>,
}

/// A state of a parameter in a checkpoint.
#[derive(Debug)]
pub struct Factor {
    /// Index of the parameter among the unit's.
    pub member: usize,
    pub name: &'static str,
    /// f32 `[rows]`, `[matrices, columns]` or `[n]`; shares memory with the state.
    pub values: Tensor,
}

impl Factors {
    /// Allocates zeros.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(pieces: &[Piece], weights: &Tensor) -> Result<Self> {
        let (places, size) = places(pieces);
        Ok(Factors { buffer: Tensor::f_zeros([size], (Kind::Float, weights.device()))?, places })
    }

    /// Returns the states of a unit's parameters, in the order of the unit.
    pub fn each(&self, pieces: &[Piece]) -> Vec<Factor> {
        let mut found = Vec::new();
        for group in pieces.chunk_by(|a, b| a.member == b.member) {
            let at =
                &self.places[pieces.iter().position(|piece| piece.member == group[0].member).unwrap_or_default()..];
            let (first, last) = (&at[0], &at[group.len() - 1]);
            let member = group[0].member;
            let values = |range: Range<i64>| narrow(&self.buffer, &range, 0);
            match group[0].matrix {
                None => {
                    let values = values(first.0.start..last.0.end);
                    found.push(Factor { member, name: "exp_avg_sq", values });
                }
                Some([_, columns]) => {
                    let rows = values(first.0.start..last.0.end);
                    let values = values(first.1.start..last.1.end).view([-1, columns]);
                    found.push(Factor { member, name: "exp_avg_sq_row", values: rows });
                    found.push(Factor { member, name: "exp_avg_sq_col", values });
                }
            }
        }
        found
    }

    pub fn bytes(&self) -> u64 {
        4 * self.buffer.numel() as u64
    }
}

/// Number of elements of the state of these tensors.
pub fn state_elements(pieces: &[Piece]) -> i64 {
    places(pieces).1
}

/// Where the rows (or elements) and the columns of a piece are in the buffer of [`Factors`].
type Places = (Range<i64>, Range<i64>);

fn places(pieces: &[Piece]) -> (Vec<Places>, i64) {
    let (mut places, mut end) = (Vec::new(), 0);
    for group in pieces.chunk_by(|a, b| a.member == b.member) {
        let heights =
            group.iter().map(|piece| piece.matrix.map_or(piece.range.end - piece.range.start, |[rows, _]| rows));
        let mut columns_end = end + heights.clone().sum::<i64>();
        for (piece, height) in group.iter().zip(heights) {
            let columns = piece.matrix.map_or(0, |[_, columns]| columns);
            places.push((end..end + height, columns_end..columns_end + columns));
            (end, columns_end) = (end + height, columns_end + columns);
        }
        end = columns_end;
    }
    (places, end)
}

/// What a rank owns of a piece, and the whole rows of the matrix around it.
struct Own {
    range: Range<i64>,
    rows: Range<i64>,
    columns: i64,
    /// Position of the range within these rows.
    offset: i64,
}

impl Own {
    fn of(piece: &Piece, owned: &Range<i64>) -> Option<Self> {
        let range = overlap(&piece.range, owned);
        let (start, end) = (range.start - piece.range.start, range.end - piece.range.start);
        // Each element of a vector is a row.
        let columns = piece.matrix.map_or(1, |[_, columns]| columns);
        let rows = start / columns..(end + columns - 1) / columns;
        let offset = start - rows.start * columns;
        (!range.is_empty()).then_some(Own { range, rows, columns, offset })
    }

    fn rows_of(&self, whole: &Tensor) -> Tensor {
        narrow(whole, &self.rows, 0)
    }
}

/// Updates a unit and its `factors` in this `step`. `gather` returns the values of all ranks, one after another, given those of this one: ranks exchange
/// sums of rows and columns, then sums of squares, and each adds them up in the order of ranks.
pub fn update(
    unit: UnitUpdate,
    factors: &Factors,
    step: u64,
    parts: &[Part],
    gather: &dyn Fn(&Tensor) -> Result<Tensor>,
) -> Result<()> {
    let UnitUpdate { pieces, owned, weights, grads, grad_scale } = unit;
    let device = weights.device();
    let gradient = Tensor::f_zeros([owned.end - owned.start], (Kind::Float, device))?;
    for part in parts {
        let range = overlap(&part.range, owned);
        if range.is_empty() {
            continue;
        }
        let at = |buffer: &Tensor| narrow(buffer, &range, owned.start);
        at(&gradient).f_copy_(&part.gradient(&at(weights), &at(grads), grad_scale)?)?;
    }
    let at = |buffer: &Tensor, own: &Own| narrow(buffer, &own.range, owned.start);
    let owns: Vec<Option<Own>> = pieces.iter().map(|piece| Own::of(piece, owned)).collect();
    let total = |own: Tensor| -> Result<Tensor> {
        let size = own.numel() as i64;
        Ok(gather(&own)?.f_view([-1, size])?.f_sum_dim_intlist([0i64].as_slice(), false, None)?)
    };

    let sums = factors.buffer.f_zeros_like()?;
    for ((piece, own), (rows, columns)) in pieces.iter().zip(&owns).zip(&factors.places) {
        let Some(own) = own else { continue };
        let squares = at(&gradient, own).f_square()?.f_add_scalar_(EPSILON)?;
        let mut row_sums = own.rows_of(&narrow(&sums, rows, 0));
        if piece.matrix.is_none() {
            row_sums.f_copy_(&squares)?;
            continue;
        }
        let height = own.rows.end - own.rows.start;
        let after = height * own.columns - own.offset - squares.numel() as i64;
        let padded = squares.f_constant_pad_nd([own.offset, after])?;
        let matrix = padded.f_view([height, own.columns])?;
        row_sums.f_copy_(&matrix.f_sum_dim_intlist([1i64].as_slice(), false, None)?)?;
        narrow(&sums, columns, 0).f_copy_(&matrix.f_sum_dim_intlist([0i64].as_slice(), false, None)?)?;
    }
    let sums = total(sums)?;

    let part_of = |piece: &Piece| parts.iter().find(|part| !overlap(&part.range, &piece.range).is_empty());
    let updates = gradient;
    let squares = Tensor::f_zeros([pieces.len() as i64], (Kind::Double, device))?;
    for (index, ((piece, own), (rows, columns))) in pieces.iter().zip(&owns).zip(&factors.places).enumerate() {
        let Some(part) = part_of(piece) else { continue };
        let decay = 1.0 - ((step - part.began) as f64).powf(DECAY_RATE);
        let average = |range: &Range<i64>, count: i64| -> Result<Tensor> {
            let mut state = narrow(&factors.buffer, range, 0);
            let mean = narrow(&sums, range, 0).f_mul_scalar((1.0 - decay) / count as f64)?;
            Ok(state.f_mul_scalar_(decay)?.f_add_(&mean)?)
        };
        let scale = match piece.matrix {
            None => {
                let state = average(rows, 1)?;
                own.as_ref().map(|own| own.rows_of(&state).f_rsqrt()).transpose()?
            }
            Some([height, width]) => {
                let (row, column) = (average(rows, width)?, average(columns, height)?);
                let by_row = row.f_div(&row.f_mean(None)?)?.f_rsqrt_()?;
                let scale = |own: &Own| -> Result<Tensor> {
                    let all = own.rows_of(&by_row).f_unsqueeze(1)?.f_mul(&column.f_rsqrt()?.f_unsqueeze(0)?)?;
                    Ok(all.f_view([-1])?.f_narrow(0, own.offset, own.range.end - own.range.start)?)
                };
                own.as_ref().map(scale).transpose()?
            }
        };
        let Some((own, scale)) = own.as_ref().zip(scale) else { continue };
        let update = at(&updates, own).f_mul_(&scale)?;
        narrow(&squares, &(index as i64..index as i64 + 1), 0).f_copy_(&update.f_square()?.f_sum(Kind::Double)?)?;
    }
    let squares = total(squares)?;

    for (index, (piece, own)) in pieces.iter().zip(&owns).enumerate() {
        let (Some(own), count) = (own, (piece.range.end - piece.range.start) as f64) else { continue };
        let rms = squares.f_get(index as i64)?.f_div_scalar(count)?.f_sqrt()?;
        let limit = rms.f_div_scalar(CLIP_THRESHOLD)?.f_clamp_min(1.0)?.f_to_kind(Kind::Float)?;
        for part in parts {
            let range = overlap(&part.range, &own.range);
            if range.is_empty() {
                continue;
            }
            let mut weights = narrow(weights, &range, owned.start);
            let update = narrow(&updates, &range, owned.start).f_div(&limit)?.f_mul_scalar_(part.learning_rate)?;
            if part.weight_decay != 0.0 {
                _ = weights.f_mul_scalar_(1.0 - part.learning_rate * part.weight_decay)?;
            }
            _ = weights.f_sub_(&update)?;
        }
    }
    Ok(())
}
