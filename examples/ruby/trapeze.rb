# Puma under trapeze: says that it is ready, and leaves without losing a request.
#
# Puma's own stop closes at once every connection on which no request has been read yet. So it is told a little later:
# meanwhile nobody new is accepted, and whoever keeps a connection hears that it closes.

require "socket"

class Trapeze
  GRACE = 1.0 # seconds that idle connections stay open when this process leaves

  def initialize(app)
    @app = app
    @stopping = false
    @listeners = 3...(3 + ENV.fetch("LISTEN_FDNAMES", "").split(":").size)
    puma = trap("TERM") { leave(puma) }
    say("READY=1") # the sockets are open and the app is loaded: Puma serves from here on
  end

  def call(env)
    status, headers, body = @app.call(env)
    headers = headers.merge("connection" => "close") if @stopping
    [status, headers, body]
  end

  private

  def leave(puma)
    return if @stopping
    @stopping = true
    Thread.new do # little is allowed in a trap
      say("STOPPING=1")
      nobody = TCPServer.new("127.0.0.1", 0) # in the place of our sockets, which belong to all workers
      @listeners.each { |fd| IO.for_fd(fd, autoclose: false).reopen(nobody) }
      sleep GRACE
      puma.call
    end
  end

  def say(text)
    fd = ENV["TRAPEZE_NOTIFY_FD"]
    IO.for_fd(Integer(fd), "w", autoclose: false).syswrite(text) if fd
  end
end
