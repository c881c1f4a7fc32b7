//! The copies of an update in host memory: a unit's gradient comes to the host while the unit before is updated, and its
//! new weights go back while the next one is.

use crate::error::{Error, Result};
use crate::ffi::memory::{self, Use};
use crate::ffi::transfer::{self, Arrival};
use tch::{Device, Kind, Tensor};

/// Number of units whose copies are under way in one direction.
const SLOTS: usize = 2;

/// The buffers of an update in host memory, in which units take turns.
#[derive(Debug)]
pub struct Offload {
    /// `None` if the host is the device: nothing is copied, but copies are counted.
    buffers: Option<Buffers>,
    /// The gradient that is coming, and its copy.
    coming: Option<(Tensor, Arrival)>,
    /// Number of gradients fetched and of weights sent so far, which determine the slots.
    fetched: usize,
    sent: usize,
}

#[derive(Debug)]
struct Buffers {
    /// `[n]` in the reduction dtype, for gradients.
    gradients: [Tensor; SLOTS],
    /// `[n]` in the compute dtype, for new weights.
    weights: [Tensor; SLOTS],
    /// The copies of `weights` that may be under way.
    going: [Option<Arrival>; SLOTS],
}

impl Offload {
    /// Creates the copies of an optimizer whose memory is that of the device.
    pub fn in_place() -> Self {
        Offload { buffers: None, coming: None, fetched: 0, sent: 0 }
    }

    /// Creates the copies to and from `device`, with buffers for units of up to `elements` elements per rank.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(elements: i64, reduce: Kind, compute: Kind, device: Device) -> Result<Self> {
        let new = |kind| memory::during(Use::Optimizer, || transfer::host_zeros(elements, kind, device));
        let buffers = Buffers {
            gradients: [new(reduce)?, new(reduce)?],
            weights: [new(compute)?, new(compute)?],
            going: [None, None],
        };
        Ok(Offload { buffers: Some(buffers), ..Offload::in_place() })
    }

    /// Starts to bring a unit's gradient `[n]` to the host; [`Offload::gradient`] returns it. One can come at a time.
    pub fn fetch(&mut self, gradient: &Tensor) -> Result<()> {
        if self.coming.is_some() {
            return Err(Error::other("a gradient is on its way to the host already"));
        }
        let coming = match &self.buffers {
            None => {
                transfer::count_download();
                (gradient.shallow_clone(), Arrival::default())
            }
            Some(buffers) => {
                // The unit that had this slot before has been updated: the host took the one after it.
                let slot = buffers.gradients[self.fetched % SLOTS].f_narrow(0, 0, gradient.numel() as i64)?;
                let arrival = transfer::start_download(gradient, &slot)?;
                (slot, arrival)
            }
        };
        (self.coming, self.fetched) = (Some(coming), self.fetched + 1);
        Ok(())
    }

    /// Waits for the gradient that was fetched. It stays valid until the second fetch from now.
    pub fn gradient(&mut self) -> Result<Tensor> {
        let (gradient, arrival) = self.coming.take().ok_or_else(|| Error::other("no gradient was fetched"))?;
        arrival.wait_on_host()?;
        Ok(gradient)
    }

    /// Rounds updated weights `[n]` to the dtype of `to` `[n]`, and starts to copy them there. Work that this thread queues
    /// from now on comes after the copy.
    pub fn send(&mut self, updated: &Tensor, to: &Tensor) -> Result<()> {
        let Some(buffers) = &mut self.buffers else {
            transfer::count_upload();
            if updated.data_ptr() != to.data_ptr() {
                to.detach().f_copy_(updated)?;
            }
            return Ok(());
        };
        let slot = self.sent % SLOTS;
        buffers.going[slot].take().map_or(Ok(()), Arrival::wait_on_host)?;
        let staged = buffers.weights[slot].f_narrow(0, 0, updated.numel() as i64)?;
        staged.shallow_clone().f_copy_(updated)?;
        let arrival = transfer::start_upload(&staged, &to.detach())?;
        arrival.order()?;
        (buffers.going[slot], self.sent) = (Some(arrival), self.sent + 1);
        Ok(())
    }

    /// Bytes of the buffers in host memory.
    pub fn bytes(&self) -> u64 {
        let all = self.buffers.iter().flat_map(|buffers| buffers.gradients.iter().chain(&buffers.weights));
        all.map(|buffer| (buffer.numel() * buffer.kind().elt_size_in_bytes()) as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::transfer::copies;

    fn values(tensor: &Tensor) -> Vec<f32> {
        Vec::try_from(tensor.to_kind(Kind::Float)).unwrap()
    }

    /// The order of an update: the next gradient comes while this unit is updated.
    #[test]
    fn gradients_come_one_unit_ahead() {
        for mut offload in [Offload::in_place(), Offload::new(4, Kind::Float, Kind::BFloat16, Device::Cpu).unwrap()] {
            let before = copies();
            let units: Vec<Tensor> =
                (1..=5i64).map(|n| Tensor::full([n.min(4)], n, (Kind::Float, Device::Cpu))).collect();
            let targets: Vec<Tensor> = units.iter().map(|unit| unit.zeros_like().to_kind(Kind::BFloat16)).collect();
            offload.fetch(&units[0]).unwrap();
            for (i, (unit, target)) in units.iter().zip(&targets).enumerate() {
                let gradient = offload.gradient().unwrap();
                units.get(i + 1).map_or(Ok(()), |next| offload.fetch(next)).unwrap();
                assert_eq!(values(&gradient), values(unit), "the next one has a buffer of its own");
                offload.send(&(&gradient + 0.001), target).unwrap();
                // Rounded to bf16.
                assert_eq!(values(target), values(unit));
            }
            let made = copies() - before;
            assert_eq!((made.host_to_device, made.device_to_host), (5, 5));
        }
    }

    #[test]
    fn steps_out_of_order_are_errors() {
        let mut offload = Offload::new(4, Kind::Float, Kind::Float, Device::Cpu).unwrap();
        assert!(offload.gradient().unwrap_err().to_string().contains("no gradient was fetched"));
        let gradient = Tensor::zeros([4], (Kind::Float, Device::Cpu));
        offload.fetch(&gradient).unwrap();
        assert!(offload.fetch(&gradient).unwrap_err().to_string().contains("on its way"));
        assert_eq!((offload.bytes(), Offload::in_place().bytes()), (4 * 4 * 4, 0));
    }

    #[test]
    fn weights_in_place_are_not_copied() {
        let weights = Tensor::from_slice(&[1f32, 2.0]);
        let mut offload = Offload::in_place();
        offload.send(&weights, &weights).unwrap();
        assert_eq!(values(&weights), [1.0, 2.0]);
    }
}
