import pickle

from keyhaus.core.errors import UserError


class BadPickle(UserError):
    code = "BADPAYLOAD"


class UnsafePickle(UserError):
    code = "UNSAFEPICKLE"


def read_pickle(data):
    class U(pickle.Unpickler):
        def find_class(self, m, n):
            raise UnsafePickle("no")

    import io

    try:
        return U(io.BytesIO(data)).load()
    except UnsafePickle:
        raise
    except Exception as e:
        raise BadPickle(str(e)) from None
