//! Fits a link (latency, bandwidth, reduction time) to measured collectives.

use crate::comm::Action;
use crate::plan::link::{Link, Network};

/// A timed collective.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timed {
    pub action: Action,
    /// Bytes of the whole buffer.
    pub bytes: f64,
    pub seconds: f64,
}

/// Fits a network to collectives measured on `ranks` ranks, by non-negative least squares of relative errors. The
/// fitted link is the bottleneck of the rings: on one machine the near link, on several machines the far link, with the
/// near link of `usual`.
pub fn network(timed: &[Timed], ranks: usize, usual: &Network) -> Network {
    let found = fitted(timed, ranks, usual);
    if ranks <= usual.ranks_per_node {
        return found;
    }
    // At least as fast as the rings that pass through it.
    let near = usual.near.reached().max(found.far.bandwidth * usual.ranks_per_node as f64);
    Network { near: Link { bandwidth: near, reached: 1.0, ..found.near }, ..found }
}

fn fitted(timed: &[Timed], ranks: usize, usual: &Network) -> Network {
    // The time is linear in the unknowns: a row has their coefficients and the result, relative to the measured time.
    let seconds =
        |unknown: [f64; N], timed: &Timed| with(unknown, ranks, usual).seconds(timed.action, timed.bytes, ranks);
    let row = |timed: &Timed| {
        let nothing = seconds([0.0; N], timed);
        let of = |which: usize| seconds(std::array::from_fn(|i| if i == which { 1.0 } else { 0.0 }), timed) - nothing;
        (std::array::from_fn(|i| of(i) / timed.seconds), (timed.seconds - nothing) / timed.seconds)
    };
    with(least_squares(&timed.iter().map(row).collect::<Vec<_>>()), ranks, usual)
}

/// Number of unknowns: latency, seconds per transferred byte, seconds per reduced byte.
const N: usize = 3;

/// Returns the network with this link. If the ranks are on several machines, the near link is at least as fast.
fn with([latency, slowness, adding]: [f64; N], ranks: usize, usual: &Network) -> Network {
    let link =
        Link { name: "measured", bandwidth: 1.0 / slowness, reached: 1.0, latency, adding, source: "measured here" };
    if ranks <= usual.ranks_per_node {
        return Network { near: link, ..*usual };
    }
    let near = Link { bandwidth: f64::INFINITY, reached: 1.0, adding, ..usual.near };
    // The adapters of a machine share its rings.
    let far = Link { bandwidth: link.bandwidth / usual.ranks_per_node as f64, adding: 0.0, ..link };
    Network { near, far, ..*usual }
}

/// Minimizes the sum of `(row x - wanted)^2` over x >= 0. With so few unknowns, all subsets of zero unknowns are tried.
fn least_squares(rows: &[([f64; N], f64)]) -> [f64; N] {
    let error = |x: &[f64; N]| -> f64 {
        rows.iter().map(|(row, wanted)| (row.iter().zip(x).map(|(a, x)| a * x).sum::<f64>() - wanted).powi(2)).sum()
    };
    let choices = (0..1usize << N).filter_map(|free| solve(rows, |i| free & (1 << i) != 0));
    let allowed = choices.filter(|x| x.iter().all(|&x| x >= 0.0));
    allowed.min_by(|a, b| error(a).total_cmp(&error(b))).unwrap_or_default()
}

/// Solves the normal equations of the `free` unknowns by elimination; `None` without a unique solution.
fn solve(rows: &[([f64; N], f64)], free: impl Fn(usize) -> bool) -> Option<[f64; N]> {
    let mut matrix: [[f64; N + 1]; N] = std::array::from_fn(|i| {
        std::array::from_fn(|j| match (free(i), j) {
            (true, N) => rows.iter().map(|(row, wanted)| row[i] * wanted).sum(),
            (true, _) if free(j) => rows.iter().map(|(row, _)| row[i] * row[j]).sum(),
            _ => f64::from(u8::from(i == j)),
        })
    });
    for pivot in 0..N {
        let own = matrix[pivot];
        // Positive definite if the solution is unique, so no pivoting is needed.
        if own[pivot] <= 0.0 {
            return None;
        }
        for (_, row) in matrix.iter_mut().enumerate().filter(|(i, _)| *i != pivot) {
            let factor = row[pivot] / own[pivot];
            (0..=N).for_each(|j| row[j] -= factor * own[j]);
        }
    }
    Some(std::array::from_fn(|i| matrix[i][N] / matrix[i][i]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Link = Link { name: "", bandwidth: 9e9, reached: 1.0, latency: 7e-6, adding: 0.0, source: "" };

    fn network_of(near: Link) -> Network {
        Network { near, far: LINK, ranks_per_node: 4, overlaps: false }
    }

    /// Returns collectives with times from the model.
    fn times(network: &Network, ranks: usize) -> Vec<Timed> {
        let all = Action::OF_A_STEP.into_iter().flat_map(|action| [1e4, 1e6, 3e7].map(|bytes| (action, bytes)));
        all.map(|(action, bytes)| Timed { action, bytes, seconds: network.seconds(action, bytes, ranks) }).collect()
    }

    /// 16 ranks on four machines: the far link is fitted, the near link stays unchanged.
    #[test]
    fn the_far_link_is_fitted_on_several_machines() {
        let far = Link { bandwidth: 1.5e9, latency: 4e-5, ..LINK };
        let truth = Network { far, ..network_of(Link { adding: 1e-10, ..LINK }) };
        let found = network(&times(&truth, 16), 16, &network_of(LINK));
        assert!((found.far.latency / far.latency - 1.0).abs() < 1e-6, "{found:?}");
        assert!((found.far.bandwidth / far.bandwidth - 1.0).abs() < 1e-6, "{found:?}");
        assert!((found.near.adding / 1e-10 - 1.0).abs() < 1e-6, "{found:?}");
        assert_eq!((found.near.bandwidth, found.near.latency, found.ranks_per_node), (9e9, 7e-6, 4));
    }

    #[test]
    fn fitted_values_are_not_negative() {
        // The large call is faster than latency and bandwidth together allow.
        let timed =
            [(1e4, 2e-3), (1e6, 1e-3)].map(|(bytes, seconds)| Timed { action: Action::AllGather, bytes, seconds });
        let usual = Network { ranks_per_node: 2, ..network_of(LINK) };
        let found = network(&timed, 2, &usual).near;
        assert!(found.latency > 0.0 && found.bandwidth.is_infinite() && found.adding == 0.0, "{found:?}");
    }

    #[test]
    fn links_are_recovered_from_times_of_the_model() {
        for (latency, bandwidth, adding) in [(2e-5, 3e9, 1e-10), (5e-4, 2e8, 0.0), (0.0, 2e9, 3e-10)] {
            let usual = network_of(Link { bandwidth, latency, adding, ..LINK });
            let found = network(&times(&usual, 4), 4, &network_of(LINK)).near;
            assert!((found.latency - latency).abs() < 1e-6 * (latency + 1e-5), "{found:?}");
            assert!((found.bandwidth / bandwidth - 1.0).abs() < 1e-6, "{found:?}");
            assert!((found.adding - adding).abs() < 1e-6 * (adding + 1e-10), "{found:?}");
        }
    }
}
