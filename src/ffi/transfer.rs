//! Copies between host and device. All copies go through this module, which counts them: a copy that the host waits for
//! stalls the GPU, so a training step has one upload per micro-batch, ahead of time, and one download; with the
//! optimizer's state in host memory also one of each for every unit that is updated.
//!
//! On the CPU nothing is copied, but the calls count, so that tests on a CPU check the number of copies on a GPU.

use super::{Handle, Message, check, handle};
use crate::error::Result;
use std::cell::Cell;
use std::ffi::c_void;
use std::ops::{Add, Sub};
use std::sync::Mutex;
use tch::{Device, Kind, Tensor};

unsafe extern "C" {
    fn trainer_upload(tensors: *const Handle, n: usize, index: i32, event: *mut *mut c_void) -> Message;
    fn trainer_copy(from: Handle, to: Handle, index: i32, event: *mut *mut c_void) -> Message;
    fn trainer_event_block(event: *mut c_void) -> Message;
    fn trainer_event_synchronize(event: *mut c_void) -> Message;
    fn trainer_event_free(event: *mut c_void);
}

/// Number of copies of a thread between host and device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copies {
    pub host_to_device: u64,
    pub device_to_host: u64,
}

impl Add for Copies {
    type Output = Copies;

    fn add(self, other: Copies) -> Copies {
        Copies {
            host_to_device: self.host_to_device + other.host_to_device,
            device_to_host: self.device_to_host + other.device_to_host,
        }
    }
}

impl Sub for Copies {
    type Output = Copies;

    fn sub(self, earlier: Copies) -> Copies {
        Copies {
            host_to_device: self.host_to_device - earlier.host_to_device,
            device_to_host: self.device_to_host - earlier.device_to_host,
        }
    }
}

thread_local! {
    static COPIES: Cell<Copies> = const { Cell::new(Copies { host_to_device: 0, device_to_host: 0 }) };
}

/// Returns the number of copies of the calling thread so far.
pub fn copies() -> Copies {
    COPIES.get()
}

fn count(host_to_device: u64, device_to_host: u64) {
    COPIES.set(COPIES.get() + Copies { host_to_device, device_to_host });
}

/// A copy under way.
#[derive(Debug, Default)]
#[must_use = "the tensors must not be used before their copy has ended"]
pub struct Arrival(Option<Event>);

#[derive(Debug)]
struct Event(*mut c_void);

// SAFETY: a CUDA event belongs to no thread; it is used by one at a time, because it is not Sync.
unsafe impl Send for Event {}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: the shim created it, and it has no other owner.
        unsafe { trainer_event_free(self.0) }
    }
}

impl Arrival {
    /// Makes the work that this thread queues from now on wait for the copy. The host does not wait.
    pub fn wait(self) -> Result<()> {
        // SAFETY: a live event.
        self.0.map_or(Ok(()), |event| check(unsafe { trainer_event_block(event.0) }))
    }

    /// Makes the work that this thread queues from now on wait for the copy, and keeps it for [`Arrival::wait_on_host`].
    pub fn order(&self) -> Result<()> {
        // SAFETY: a live event.
        self.0.as_ref().map_or(Ok(()), |event| check(unsafe { trainer_event_block(event.0) }))
    }

    /// Waits on the host until the copy has ended.
    pub fn wait_on_host(self) -> Result<()> {
        // SAFETY: a live event.
        self.0.map_or(Ok(()), |event| check(unsafe { trainer_event_synchronize(event.0) }))
    }
}

/// Allocates zeros in host memory, pinned if `device` is a GPU, so that copies to and from it are asynchronous.
///
/// # Errors
/// Out of memory.
pub fn host_zeros(elements: i64, kind: Kind, device: Device) -> Result<Tensor> {
    let zeros = Tensor::f_zeros([elements], (kind, Device::Cpu))?;
    Ok(if device == Device::Cpu { zeros } else { zeros.f_pin_memory(device)? })
}

/// Starts to copy a device tensor to a tensor of the same shape and dtype from [`host_zeros`]. The copy comes after the
/// work that this thread has queued; [`Arrival::wait_on_host`] orders the host's work after it.
pub fn start_download(from: &Tensor, to: &Tensor) -> Result<Arrival> {
    count(0, 1);
    start_copy(from, to, from.device())
}

/// Starts to copy a tensor from [`host_zeros`] to a device tensor of the same shape and dtype, after the work that this
/// thread has queued. The host must not change it before [`Arrival::wait_on_host`].
pub fn start_upload(from: &Tensor, to: &Tensor) -> Result<Arrival> {
    count(1, 0);
    start_copy(from, to, to.device())
}

/// Counts a copy that need not be made, because both places are the same memory.
pub fn count_download() {
    count(0, 1);
}

/// The same from host to device.
pub fn count_upload() {
    count(1, 0);
}

fn start_copy(from: &Tensor, to: &Tensor, device: Device) -> Result<Arrival> {
    let Device::Cuda(index) = device else {
        to.shallow_clone().f_copy_(from)?;
        return Ok(Arrival::default());
    };
    let mut event = std::ptr::null_mut();
    // SAFETY: two live tensors; a pointer to a live variable.
    check(unsafe { trainer_copy(handle(from), handle(to), i32::try_from(index).unwrap_or(i32::MAX), &mut event) })?;
    Ok(Arrival((!event.is_null()).then_some(Event(event))))
}

/// Replaces CPU tensors by copies on `device`, in one asynchronous copy from pinned memory on a separate stream. May be
/// called on any thread; [`Arrival::wait`] orders it before the work of the thread that uses the tensors.
///
/// # Errors
/// Out of memory; libtorch's.
pub fn upload(tensors: &mut [&mut Tensor], device: Device) -> Result<Arrival> {
    if tensors.is_empty() {
        return Ok(Arrival::default());
    }
    count(1, 0);
    match device {
        Device::Cuda(index) => copy(tensors, i32::try_from(index).unwrap_or(i32::MAX)),
        _ => Ok(Arrival::default()),
    }
}

fn copy(tensors: &mut [&mut Tensor], index: i32) -> Result<Arrival> {
    let handles: Vec<Handle> = tensors.iter().map(|tensor| handle(tensor)).collect();
    let mut event = std::ptr::null_mut();
    // SAFETY: the handles are live tensors, which are borrowed mutably.
    check(unsafe { trainer_upload(handles.as_ptr(), handles.len(), index, &mut event) })?;
    Ok(Arrival((!event.is_null()).then_some(Event(event))))
}

/// Copies a CPU tensor to `device`; work queued by this thread may use it at once.
///
/// # Panics
/// Where libtorch fails, such as out of memory.
pub fn to_device(mut tensor: Tensor, device: Device) -> Tensor {
    let arrival = upload(&mut [&mut tensor], device);
    arrival.and_then(Arrival::wait).unwrap_or_else(|e| panic!("a copy to {device:?}: {e}"));
    tensor
}

/// Returns a contiguous copy on the CPU; the host waits for all work queued before.
pub fn to_host(tensor: &Tensor) -> Result<Tensor> {
    count(0, 1);
    Ok(tensor.f_to_device(Device::Cpu)?.f_contiguous()?)
}

/// Returns the values of a tensor in the order of its elements.
///
/// # Errors
/// If the dtype is not `T`; libtorch's.
pub fn values<T: tch::kind::Element + Copy>(tensor: &Tensor) -> Result<Vec<T>>
where
    Vec<T>: TryFrom<Tensor, Error = tch::TchError>,
{
    Ok(Vec::try_from(to_host(tensor)?.f_view(-1)?)?)
}

/// Values that are uploaded once and stay on the device.
#[derive(Debug)]
pub struct Constant {
    host: Tensor,
    device: Mutex<Option<Tensor>>,
}

// SAFETY: `host` is only read, by copying it; `device` is behind its lock.
unsafe impl Sync for Constant {}

impl Constant {
    /// Creates it from a CPU tensor.
    pub fn new(host: Tensor) -> Self {
        Constant { host, device: Mutex::default() }
    }

    /// Returns the values on `device`.
    ///
    /// # Panics
    /// Where libtorch fails, such as out of memory.
    pub fn on(&self, device: Device) -> Tensor {
        let mut kept = self.device.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let found = kept.take().filter(|there| there.device() == device);
        let there = found.unwrap_or_else(|| to_device(self.host.copy(), device));
        let result = there.shallow_clone();
        *kept = Some(there);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layout is the same on every device: each tensor begins at a multiple of 256 bytes.
    #[test]
    fn tensors_of_all_types_share_a_buffer() {
        let cpu = |kind| (kind, Device::Cpu);
        let made = || {
            vec![
                Tensor::arange(7, cpu(Kind::Int64)),
                Tensor::arange(300, cpu(Kind::Float)).view([3, 100]).tr(),
                Tensor::zeros([0, 4], cpu(Kind::Int64)),
                Tensor::from(2.5f32),
                Tensor::arange(5, cpu(Kind::Int)).gt(2),
                Tensor::arange(9, cpu(Kind::BFloat16)),
            ]
        };
        let (wanted, mut moved) = (made(), made());
        assert!(copy(&mut moved.iter_mut().collect::<Vec<_>>(), -1).unwrap().0.is_none());
        let start = moved[0].data_ptr() as usize;
        for (moved, wanted) in moved.iter().zip(&wanted) {
            assert!(moved.equal(wanted) && moved.kind() == wanted.kind(), "{moved:?} and {wanted:?}");
            assert!(moved.numel() == 0 || (moved.data_ptr() as usize - start).is_multiple_of(256));
        }
    }

    #[test]
    fn single_copies_are_made_and_counted() {
        let before = copies();
        let host = host_zeros(3, Kind::Float, Device::Cpu).unwrap();
        let (device, back) = (Tensor::from_slice(&[1f32, 2.0, 3.0]), Tensor::zeros([3], (Kind::Float, Device::Cpu)));
        start_download(&device, &host).unwrap().wait_on_host().unwrap();
        let arrival = start_upload(&host, &back).unwrap();
        arrival.order().and_then(|()| arrival.wait_on_host()).unwrap();
        assert!(back.equal(&device));
        count_upload();
        count_download();
        assert_eq!(copies() - before, Copies { host_to_device: 2, device_to_host: 2 });
    }

    #[test]
    fn copies_are_counted_by_thread() {
        let before = copies();
        let (mut a, mut b) = (Tensor::from(1i64), Tensor::from(2f32));
        upload(&mut [&mut a, &mut b], Device::Cpu).unwrap().wait().unwrap();
        upload(&mut [], Device::Cpu).unwrap().wait().unwrap();
        assert_eq!(values::<f32>(&to_device(b, Device::Cpu)).unwrap(), [2.0]);
        assert!(std::thread::spawn(|| to_host(&Tensor::from(1f32))).join().is_ok());
        assert_eq!(copies() - before, Copies { host_to_device: 2, device_to_host: 1 });
        let constant = Constant::new(Tensor::from_slice(&[1i64, 2]));
        for _ in 0..3 {
            assert!(constant.on(Device::Cpu).equal(&Tensor::from_slice(&[1i64, 2])));
        }
        assert_eq!((copies() - before).host_to_device, 3);
    }
}
