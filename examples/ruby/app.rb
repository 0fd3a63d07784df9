App = proc do |_env|
  text = "hello from Ruby #{RUBY_VERSION}, worker #{ENV['TRAPEZE_INDEX']}\n"
  [200, { "content-type" => "text/plain", "content-length" => text.bytesize.to_s }, [text]]
end
