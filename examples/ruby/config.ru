require_relative "app"
require_relative "trapeze"

use Trapeze
run App
