"""An executor that runs everything in this process, when it is submitted, from pickled copies."""

import concurrent.futures
import pickle


class Here(concurrent.futures.Executor):
    """Keeps the names of the functions that it ran; a subclass may change what comes back."""

    def __init__(self):
        self.jobs = []

    def submit(self, fn, /, *args, **kwargs):
        future = concurrent.futures.Future()
        fn, args, kwargs = pickle.loads(pickle.dumps((fn, args, kwargs)))
        self.jobs.append(args[0])
        try:
            future.set_result(pickle.loads(pickle.dumps(self.answer(fn, *args, **kwargs))))
        except Exception as error:
            future.set_exception(error)
        return future

    def answer(self, fn, job):
        return fn(job)
