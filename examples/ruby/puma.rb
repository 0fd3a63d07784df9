# One process with threads for each worker of trapeze, on the sockets that it passes.
bind_to_activated_sockets "only"
workers 0
threads 4, 4
environment "production"
